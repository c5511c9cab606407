"""Whether a session reaches the limits that a pipeline sets. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.model.session import SessionResult


def shortfalls(
    result: SessionResult, *, efficiency_ratio: float | None, hit_ratio: float | None
) -> list[str]:
    """A sentence for each ratio (0…1) that the session does not reach; None is no limit.

    An unknown ratio reaches no limit.
    """
    totals = session_totals(result.turns)
    limited = (
        ("efficiency", "--fail-under-efficiency", totals.efficiency_ratio, efficiency_ratio),
        ("hit ratio", "--fail-under-hit-ratio", totals.hit_ratio, hit_ratio),
    )
    found = []
    for name, option, reached, least in limited:
        if least is None:
            continue
        if reached is None:
            found.append(
                f"The session's {name} is unknown, so it does not reach {option} {least:g}."
            )
        elif reached < least:
            found.append(
                f"The session's {name} of {numbers.percent(reached)} is below {option} {least:g}."
            )
    return found
