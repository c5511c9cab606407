"""Stops a session whose cold controls prove nothing, as the server reports no cached tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import ExporterError
from exporter.model.session import Notice
from exporter.wording.notices import ADVICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model.session import TurnFacts
    from exporter.probe.session.runner import SessionRunner

_REMEDIES = (
    Notice.USAGE_MISSING,
    Notice.TRANSFER,
    Notice.USAGE_DETAILS_MISSING,
    Notice.CACHED_TOKENS_UNKNOWN,
)


class ColdUnprovenError(ExporterError):
    """On this server no control can be proved to be cold. The text says why and what to do."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason} {remedy}")
        self.reason = reason


def stopping_if_unproven(
    runner: SessionRunner, on_turn: Callable[[TurnFacts], None] = lambda _facts: None
) -> Callable[[TurnFacts], None]:
    """A hook for the end of each turn. Raises `ColdUnprovenError` as soon as that is known.

    That is after the second turn, which hits on a server that caches. The first turn does not show
    it, because many servers leave out a 0. Without any usage the first turn shows it.
    """

    def ended(facts: TurnFacts) -> None:
        on_turn(facts)
        session = runner.so_far()
        notices = frozenset[Notice]() if session is None else session.notices
        if facts.index == 1:
            notices &= {Notice.USAGE_MISSING}
        remedy = next((ADVICE[notice] for notice in _REMEDIES if notice in notices), None)
        if facts.cached_tokens is None and remedy is not None:
            raise ColdUnprovenError(
                "only the number of cached tokens proves that a control was cold, and the server "
                f"does not report it. Stopped after turn {facts.index}.",
                remedy,
            )

    return ended
