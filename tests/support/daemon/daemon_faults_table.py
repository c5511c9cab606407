"""What the tests of faults measured, as docs/faults.md shows it.

TEST_DAEMON_FAULTS_TABLE names a file to write the rows to, as Markdown.
"""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine_faults import Row


@dataclass(frozen=True, slots=True)
class Line:
    """`exported` says it in words; seconds are from the fault's making or ending to the page that
    shows it; milliseconds are the median and the worst of /metrics meanwhile.
    """

    fault: str
    exported: str
    noticed: float | None
    milliseconds: tuple[float, float]
    growth_mib: float | None
    recovered: float | None

    @classmethod
    def of(cls, row: Row, outcome: Any) -> Line:
        session, scrape = outcome.reasons
        said = [
            f"session `{session}`" if session else "",
            f"scrape `{scrape}`" if scrape else "",
            f"notice `{row.notice}`" if row.notice else "",
            "the values are absent" if row.absent else "",
        ]
        words = ", ".join(filter(None, said)) or "read as usual"
        return cls(
            row.name,
            words,
            outcome.noticed,
            outcome.milliseconds,
            outcome.growth_mib,
            outcome.recovered,
        )


def note(line: Line) -> None:
    """Add a line to the table that is asked for, if one is."""
    named = os.environ.get("TEST_DAEMON_FAULTS_TABLE")
    if named is None:
        return
    fault, exported, noticed, milliseconds, growth, recovered = astuple(line)
    cells = [
        fault,
        exported,
        _seconds(noticed),
        " / ".join(f"{one:.0f}" for one in milliseconds),
        "—" if growth is None else f"{growth:.0f}",
        _seconds(recovered),
    ]
    with Path(named).open("a") as table:
        table.write(f"| {' | '.join(cells)} |\n")


def _seconds(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f}"
