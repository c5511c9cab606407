"""The requests of a recording in a terminal: what to change, and a row for each request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from exporter.analysis.requests.totals import findings_of, totals_of
from exporter.wording import numbers
from exporter.wording import requests as words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from exporter.model.explained import ExplainedRequest

_ROWS = 40
"""Requests in the table, without `--all`."""


def requests_report(
    requests: Sequence[ExplainedRequest],
    source: str,
    *,
    estimated: bool,
    show_text: bool = False,
    every_row: bool = False,
) -> Group:
    """The whole report."""
    totals = totals_of(requests)
    heading = (
        f"{source}: {numbers.count(totals.requests)} requests in "
        f"{numbers.count(totals.conversations)} conversations"
    )
    shown = requests if every_row else requests[:_ROWS]
    lines: list[RenderableType] = [Text(heading, "bold"), "", requests_table(shown)]
    if len(shown) < len(requests):
        lines.append(f"and {numbers.count(len(requests) - len(shown))} more; --all shows them")
    lines += ["", verdict(requests, estimated=estimated), ""]
    return Group(*lines, *_findings(requests, show_text=show_text))


def verdict(requests: Sequence[ExplainedRequest], *, estimated: bool) -> Text:
    """What the requests add up to."""
    said = words.conclusion(totals_of(requests), estimated=estimated)
    return Text(f"{said} {words.ESTIMATED}" if estimated else said)


def _findings(
    requests: Sequence[ExplainedRequest], *, show_text: bool
) -> list[RenderableType]:
    found = findings_of(requests)
    if not found:
        return [Text(words.NOTHING, "green")]
    lines: list[RenderableType] = [Text("What to change, the most expensive first:", "bold")]
    for number, one in enumerate(found, start=1):
        lines.append(Text(f"{number}. {words.finding(one)}"))
        lines.append(Padding(Text(words.extent(one), "dim"), (0, 0, 0, 3)))
        if show_text:
            lines.append(Padding(Text(words.difference(one.change)), (0, 0, 0, 3)))
    return lines


def requests_table(requests: Sequence[ExplainedRequest]) -> Table:
    """A row for each request."""
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("request", "conv."):
        table.add_column(title, header_style="bold", no_wrap=True)
    for title in ("prompt", "reusable", "changed", "new"):
        table.add_column(title, justify="right", header_style="bold", no_wrap=True)
    table.add_column("why", header_style="bold")
    for one in requests:
        counts = (one.prompt_tokens, one.reusable_tokens, one.changed_tokens, one.new_tokens)
        table.add_row(
            one.request.place,
            str(one.conversation),
            *map(numbers.count, counts),
            Text(_why(one), "yellow" if one.change else "dim"),
        )
    return table


def _why(one: ExplainedRequest) -> str:
    if one.change is not None:
        more = len(one.changes) - 1
        return words.cause(one.change) + (f"; {more} more" if more else "")
    if one.reusable_tokens == 0:
        return "nothing shared"
    return ""
