"""The cold control: a turn's messages once more, under a salt that no request had before.

Prompt, length and load are the same, without the cache: cold minus warm is what the cache saved in
this turn. Chance decides whether the control goes before or after its turn. So an advantage of the
second request, such as a warmer processor or a shorter queue, falls to both alike.

Controls go to the last turns of a session. Their prompts are the longest, and the line of TTFT over
uncached tokens is fixed best by its longest cold prompts; a first turn is a cold point anyway.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from exporter.model.session import Control, ControlOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.engine.wire.request import ChatRequest, Deadlines
    from exporter.model.chat import Chat, Usage
    from exporter.probe.engine_requests import ChatSender


class Place(Enum):
    """When a control is sent: before or after its turn."""

    BEFORE = auto()
    AFTER = auto()


class ColdControl:
    """Chooses the turns that get a control, and sends it.

    `ratio` is the share of turns with a control, `chance` gives numbers from 0 to below 1. The
    first turn of a session is cold anyway and gets none. A part of a control that is due is kept
    for the next session. It begins at random, so that targets do not send controls together.
    """

    def __init__(
        self, ratio: float, chance: Callable[[], float], new_salt: Callable[[], str]
    ) -> None:
        self._ratio = ratio
        self._chance = chance
        self._new_salt = new_salt
        self._kept: float | None = None

    def place(self, turn: int, turns: int, *, scarce: bool = False) -> Place | None:
        """When the control of turn `turn` (1…) of `turns` is sent; None if the turn has none.

        The last turns have one, because their prompts are longest. Where room is `scarce`, the
        first ones after the opening have, because a control takes as much room as its prompt.
        """
        due = int(self._credit(turns))
        if turn == 1 or (turn > 1 + due if scarce else turn <= turns - due):
            return None
        return Place.BEFORE if self._chance() < 0.5 else Place.AFTER  # noqa: PLR2004 - a fair coin

    def session_ended(self, turns: int) -> None:
        """Keep the part of a control for the next session."""
        self._kept = self._credit(turns) % 1.0

    def _credit(self, turns: int) -> float:
        """The controls that are due in a session. A first session, which may start on many targets
        at once, has only the whole ones.
        """
        due = self._ratio * turns
        if self._kept is None:
            self._kept = self._chance() * (1 - due % 1.0)
        return self._kept + due

    async def send(
        self, sender: ChatSender, request: ChatRequest, deadlines: Deadlines, place: Place
    ) -> tuple[Control, Usage | None]:
        """Send `request` under a new salt if it has one. Returns the control and the usage of its
        answer.
        """
        salt = None if request.cache_salt is None else self._new_salt()
        chat = await sender.chat(replace(request, cache_salt=salt), deadlines)
        return control_facts(chat.if_sent_once(), before_turn=place is Place.BEFORE), chat.usage


def control_facts(chat: Chat, *, before_turn: bool) -> Control:
    """What a control showed. It was cold only if its cached tokens are known to be 0."""
    usage, cached = chat.usage, chat.cached_tokens
    if chat.failure is not None:
        outcome = ControlOutcome.FAILED
    elif cached is None:
        outcome = ControlOutcome.UNREPORTED
    else:
        outcome = ControlOutcome.COLD if cached == 0 else ControlOutcome.NOT_COLD
    return Control(
        outcome=outcome,
        before_turn=before_turn,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        ttft_seconds=None if chat.failure is not None else chat.ttft_seconds,
    )
