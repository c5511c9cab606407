"""Whether a session reaches the limits that a pipeline sets. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.model.session import SessionResult


@dataclass(frozen=True, slots=True)
class Limits:
    """The ratios (0…1) that a session must reach; None is no limit."""

    efficiency_ratio: float | None = None
    hit_ratio: float | None = None


def shortfalls(result: SessionResult, limits: Limits) -> list[str]:
    """A sentence for each limit that is not reached. An unknown ratio reaches no limit."""
    totals = session_totals(result.turns)
    limited = (
        ("efficiency", "--fail-under-efficiency", totals.efficiency_ratio, limits.efficiency_ratio),
        ("hit ratio", "--fail-under-hit-ratio", totals.hit_ratio, limits.hit_ratio),
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
