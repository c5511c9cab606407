"""Sums over the turns of all sessions of one target. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.analysis.hits.routing import Hop, hops
from exporter.model.chat import CachedTokensSource
from exporter.model.reuse import RuleCause
from exporter.model.session import LossCause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.session import TurnFacts

_HOPS = {Hop.SAME_REPLICA: "same", Hop.OTHER_REPLICA: "other"}


@dataclass(slots=True)
class ProbeSums:
    """Sums over all turns, also of failed sessions. None until first known.

    `prompt_tokens` and `cached_tokens` count the same turns, those with known cached tokens.
    `external_cached_tokens` is the part of `cached_tokens` that came from a tier below the engine's
    own cache, of the turns for which that is known. `consumed_tokens` counts every turn with usage,
    and all other requests. The other sums count the turns that are judged, so that these are exact:

    - ideal - attainable = `rule_lost_tokens`
    - attainable - cached = `lost_tokens`

    A turn is judged if its attainable tokens are known, or if its loss is known although the reuse
    rule is not. Such a turn counts with its ideal as attainable, because its loss was measured
    against that. It does not count if another turn of its session hit an unknown share of what is
    attainable: then only the losses of the session would count, and the efficiency would be too
    low.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    external_cached_tokens: int | None = None
    ideal_cached_tokens: int | None = None
    attainable_cached_tokens: int | None = None
    completion_tokens: int | None = None
    consumed_tokens: int | None = None
    lost_tokens: dict[LossCause, int] = field(default_factory=dict)
    rule_lost_tokens: dict[RuleCause, int] = field(default_factory=dict)
    routed_turns: dict[str, int] = field(default_factory=dict)

    @property
    def judged_cached_tokens(self) -> int | None:
        """The cached tokens of the judged turns."""
        attainable = self.attainable_cached_tokens
        return None if attainable is None else attainable - sum(self.lost_tokens.values())

    def add_beside(self, tokens: int) -> None:
        """Tokens of requests that are not turns of an ended session."""
        if tokens:
            self.consumed_tokens = (self.consumed_tokens or 0) + tokens

    def add_heartbeat(self, turns: Sequence[TurnFacts]) -> None:
        """Add the turns of a heartbeat: only what the cache could serve of them, and did."""
        for turn in turns:
            self.add_beside(turn.consumed_tokens or 0)
            if not _hit_an_unknown_share(turn):
                self._add_judged(turn)

    def add(self, turns: Sequence[TurnFacts]) -> None:
        """Add the turns of one session."""
        hits_unknown = any(t.prompt_tokens and t.cached_tokens is None for t in turns)
        rule_unknown = any(map(_hit_an_unknown_share, turns))
        for kind, count in hops(turns).items():
            self.routed_turns = self.routed_turns or dict.fromkeys(_HOPS.values(), 0)
            self.routed_turns[_HOPS[kind]] += count
        for turn in turns:
            self._add_spent(turn)
            if hits_unknown and turn.cached_tokens_source is CachedTokensSource.NO_HITS:
                continue  # known only because it did not hit
            self._add_served(turn)
            if turn.attainable_cached_tokens is not None or not rule_unknown:
                self._add_judged(turn)

    def _add_spent(self, turn: TurnFacts) -> None:
        if turn.consumed_tokens is not None:
            self.consumed_tokens = (self.consumed_tokens or 0) + turn.consumed_tokens
        if turn.completion_tokens is not None:
            self.completion_tokens = (self.completion_tokens or 0) + turn.completion_tokens

    def _add_served(self, turn: TurnFacts) -> None:
        if turn.prompt_tokens is None or turn.cached_tokens is None:
            return
        self.prompt_tokens = (self.prompt_tokens or 0) + turn.prompt_tokens
        self.cached_tokens = (self.cached_tokens or 0) + turn.cached_tokens
        if turn.external_cached_tokens is not None:
            external = self.external_cached_tokens or 0
            self.external_cached_tokens = external + turn.external_cached_tokens

    def _add_judged(self, turn: TurnFacts) -> None:
        ideal, attainable = turn.ideal_cached_tokens, turn.attainable_cached_tokens
        if attainable is None and turn.loss is not None:
            attainable = ideal
        # What a first turn can attain is 0 on every engine, so it does not show that it is known.
        # Where usage hides hits, the cached tokens are unknown, but the loss is known.
        known = turn.cached_tokens is not None or turn.loss is not None
        if ideal is None or attainable is None or turn.index == 1 or not known:
            return
        self.ideal_cached_tokens = (self.ideal_cached_tokens or 0) + ideal
        self.attainable_cached_tokens = (self.attainable_cached_tokens or 0) + attainable
        if not self.lost_tokens:
            self.lost_tokens = dict.fromkeys(LossCause, 0)
            self.rule_lost_tokens = dict.fromkeys(RuleCause, 0)
        if turn.loss is not None:
            self.lost_tokens[turn.loss.cause] += turn.loss.tokens
        for part in turn.rule_losses:
            self.rule_lost_tokens[part.cause] += part.tokens


def _hit_an_unknown_share(turn: TurnFacts) -> bool:
    """Whether the turn hit, and neither what it could attain nor a loss is known."""
    judged = turn.attainable_cached_tokens is not None or turn.loss is not None
    return turn.index > 1 and bool(turn.cached_tokens) and not judged
