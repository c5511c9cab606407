"""A recording beside one that was made before a change of the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from exporter.analysis.requests.totals import Totals, findings_of, totals_of
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model.explained import ExplainedRecording

_ROWS: tuple[tuple[str, Callable[[Totals], str]], ...] = (
    ("requests", lambda one: numbers.count(one.requests)),
    ("prompt tokens", lambda one: numbers.count(one.prompt_tokens)),
    ("reusable", lambda one: _share(one.reusable_tokens, one)),
    ("changed", lambda one: _share(one.changed_tokens, one)),
    ("new", lambda one: _share(one.new_tokens, one)),
    ("reusable of what is repeated", lambda one: numbers.percent(one.reusable_ratio)),
)


def _share(tokens: int, totals: Totals) -> str:
    return numbers.percent(tokens / totals.prompt_tokens if totals.prompt_tokens else None)


def before_table(before: ExplainedRecording, now: ExplainedRecording) -> Table:
    """The totals of both, and the changed tokens by reason and section."""
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("", "before", "now"):
        table.add_column(title, justify="right" if title else "left", header_style="bold")
    both = (before, now)
    for name, write in _ROWS:
        table.add_row(name, *(write(totals_of(one.requests)) for one in both))
    lost = [
        {
            f"changed: {numbers.spaced(each.change.reason)}, {each.change.place.section}": (
                each.changed_tokens
            )
            for each in findings_of(one.requests)
        }
        for one in both
    ]
    for name in dict.fromkeys((*lost[0], *lost[1])):
        table.add_row(name, *(numbers.count(each.get(name, 0)) for each in lost))
    return table
