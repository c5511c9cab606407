"""Ends a session whose cold controls prove nothing: the server does not say what was cached."""

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


class ColdUntoldError(ExporterError):
    """No control can be told to be cold on this server; the text says what to do."""


def ending_where_untold(
    runner: SessionRunner, on_turn: Callable[[TurnFacts], None] = lambda _facts: None
) -> Callable[[TurnFacts], None]:
    """A hook for the end of each turn, which raises `ColdUntoldError` as soon as that is known.

    That is after the second turn, which hits on a server that caches: many leave out a 0, so what
    the first answer lacks says nothing. Without any usage it is known after the first.
    """

    def ended(facts: TurnFacts) -> None:
        on_turn(facts)
        session = runner.so_far()
        notices = frozenset[Notice]() if session is None else session.notices
        if facts.index == 1:
            notices &= {Notice.USAGE_MISSING}
        remedy = next((ADVICE[notice] for notice in _REMEDIES if notice in notices), None)
        if facts.cached_tokens is None and remedy is not None:
            raise ColdUntoldError(
                "only cached tokens prove that a control was cold, so this ended after turn "
                f"{facts.index}. {remedy}"
            )

    return ended
