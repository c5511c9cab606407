"""What the tests of faults measured. TEST_FAULTS_TABLE names a file to write it to, as Markdown."""

from __future__ import annotations

import os
from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds are from the fault's making to the first page of /metrics that shows it, and to the
    first that says `ready` again (None: nobody waited for it, or it cannot be).
    """

    fault: str
    detected: float
    states: str
    cause: str
    metric: str
    recovered: float | None


def note(row: Row) -> None:
    """Add a line to the table that is asked for, if one is."""
    named = os.environ.get("TEST_FAULTS_TABLE")
    if named is None:
        return
    cells = [f"{cell:.1f} s" if isinstance(cell, float) else str(cell) for cell in astuple(row)]
    with Path(named).open("a") as table:
        table.write(f"| {' | '.join('—' if cell == 'None' else cell for cell in cells)} |\n")
