"""Sums over the turns of all sessions of one target. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.model.chat import CachedTokensSource
from exporter.model.session import LossCause

if TYPE_CHECKING:
    from exporter.model.session import TurnFacts


@dataclass(slots=True)
class ProbeSums:
    """Sums over all turns, also of failed sessions. None until first known.

    `prompt_tokens` and `cached_tokens` count the same turns, those with known cached tokens.
    `ideal_cached_tokens` and `lost_tokens` count those whose ideal is known too. So cached / prompt
    and lost / ideal are true ratios, if a turn's hits do not decide whether they are known. For
    that reason a turn does not count if it is known only because the engine counted no hit at all,
    while other turns of its session are unknown: those may have hit. `consumed_tokens` counts every
    turn with usage, and all other requests.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    ideal_cached_tokens: int | None = None
    completion_tokens: int | None = None
    consumed_tokens: int | None = None
    lost_tokens: dict[LossCause, int] = field(default_factory=dict)

    def add_beside(self, tokens: int) -> None:
        """Tokens of requests that are not turns of an ended session."""
        if tokens:
            self.consumed_tokens = (self.consumed_tokens or 0) + tokens

    def add(self, turn: TurnFacts, *, others_unknown: bool = False) -> None:
        if turn.consumed_tokens is not None:
            self.consumed_tokens = (self.consumed_tokens or 0) + turn.consumed_tokens
        if turn.completion_tokens is not None:
            self.completion_tokens = (self.completion_tokens or 0) + turn.completion_tokens
        if turn.prompt_tokens is None or turn.cached_tokens is None:
            if turn.loss is not None:  # the served tokens are unknown, but the loss is known
                self._add_ideal(turn)
            return
        if others_unknown and turn.cached_tokens_source is CachedTokensSource.NO_HITS:
            return
        self.prompt_tokens = (self.prompt_tokens or 0) + turn.prompt_tokens
        self.cached_tokens = (self.cached_tokens or 0) + turn.cached_tokens
        self._add_ideal(turn)

    def _add_ideal(self, turn: TurnFacts) -> None:
        # The ideal of a first turn is 0 on every engine, so it does not show that ideals are known.
        if turn.ideal_cached_tokens is None or turn.index == 1:
            return
        self.ideal_cached_tokens = (self.ideal_cached_tokens or 0) + turn.ideal_cached_tokens
        if not self.lost_tokens:
            self.lost_tokens = dict.fromkeys(LossCause, 0)
        if turn.loss is not None:
            self.lost_tokens[turn.loss.cause] += turn.loss.tokens
