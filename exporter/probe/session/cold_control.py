"""The cold control: a turn's own messages once more, under a salt that no request ever had.

Same prompt, same length, same load, no cache: cold minus warm is what the cache saved this turn.
Whether the control goes before or after its turn is left to chance, so that whatever favours the
second of two requests (a warmer processor, a queue that drains) favours both alike.
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
    """Where a control stands beside its turn."""

    BEFORE = auto()
    AFTER = auto()


class ColdControl:
    """Chooses the turns that get a control, and sends it.

    `ratio` is the share of turns, `chance` gives numbers from 0 to below 1. A session's first turn
    is cold by construction and gets none.
    """

    def __init__(
        self, ratio: float, chance: Callable[[], float], new_salt: Callable[[], str]
    ) -> None:
        self._ratio = ratio
        self._chance = chance
        self._new_salt = new_salt

    def place(self, turn: int) -> Place | None:
        """Where the control of turn `turn` (1…) stands; None if that turn has none."""
        if turn == 1 or self._chance() >= self._ratio:
            return None
        return Place.BEFORE if self._chance() < 0.5 else Place.AFTER  # noqa: PLR2004 - a coin

    async def send(
        self, client: ChatSender, request: ChatRequest, deadlines: Deadlines, place: Place
    ) -> tuple[Control, Usage | None]:
        """Send `request` with nothing changed but its salt; also the usage of the answer."""
        chat = await client.chat(replace(request, cache_salt=self._new_salt()), deadlines)
        return control_facts(chat.once(), before_turn=place is Place.BEFORE), chat.usage


def control_facts(chat: Chat, *, before_turn: bool) -> Control:
    """What a control says. Only with a reported 0 of cached tokens was it cold."""
    usage = chat.usage
    cached = usage.cached_tokens if usage else None
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
