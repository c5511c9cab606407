"""Whether a session is as good as was demanded: for pipelines that must stop where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.model.session import SessionResult


@dataclass(frozen=True, slots=True)
class Limits:
    """The least that a session must reach, as ratios 0…1 of all its turns; None demands nothing."""

    efficiency_ratio: float | None = None
    hit_ratio: float | None = None


def shortfalls(result: SessionResult, limits: Limits) -> list[str]:
    """A sentence for each demand that is not met. A figure that is not known meets none."""
    totals = session_totals(result.turns)
    demands = (
        ("efficiency", "--fail-under-efficiency", totals.efficiency_ratio, limits.efficiency_ratio),
        ("hit ratio", "--fail-under-hit-ratio", totals.hit_ratio, limits.hit_ratio),
    )
    found = []
    for name, option, reached, least in demands:
        if least is None:
            continue
        if reached is None:
            found.append(
                f"The session's {name} is not known, so it does not meet {option} {least:g}."
            )
        elif reached < least:
            found.append(
                f"The session's {name} of {numbers.percent(reached)} is below {option} {least:g}."
            )
    return found
