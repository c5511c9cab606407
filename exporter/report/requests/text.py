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
    from rich.console import RenderableType

    from exporter.model.explained import ExplainedRecording, ExplainedRequest

_ROWS = 40
"""Requests in the table, without `--all`."""


def requests_report(
    found: ExplainedRecording, *, show_text: bool = False, every_row: bool = False
) -> Group:
    """The whole report."""
    totals = totals_of(found.requests)
    rows = len(found.requests) if every_row else _ROWS
    lines: list[RenderableType] = [
        Text(
            f"{found.source}: {_counted(totals.requests, 'request')} in "
            f"{_counted(totals.conversations, 'conversation')}",
            "bold",
        ),
        "",
        requests_table(found, rows),
    ]
    if rows < len(found.requests):
        left = numbers.count(len(found.requests) - rows)
        lines.append(Text(f"and {left} more; --all shows them", "dim"))
    return Group(*lines, "", verdict(found), "", *_findings(found, show_text=show_text))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def verdict(found: ExplainedRecording) -> Text:
    """What the requests add up to, and what the engine served of it."""
    said = [words.conclusion(totals_of(found.requests), estimated=found.estimated)]
    if found.estimated:
        said.append(words.ESTIMATED)
    if found.replayed is not None:
        said.append(words.replayed(found.replayed, found.seconds_per_token))
    return Text(" ".join(said))


def _findings(found: ExplainedRecording, *, show_text: bool) -> list[RenderableType]:
    findings = findings_of(found.requests)
    if not findings:
        repeats = totals_of(found.requests).reusable_ratio is not None
        return [Text(words.NOTHING, "green") if repeats else Text(words.NOTHING_REPEATED)]
    lines: list[RenderableType] = [Text("What to change, the most expensive first:", "bold")]
    for number, one in enumerate(findings, start=1):
        lines.append(Text(f"{number}. {words.finding(one)}"))
        extent = words.extent(one, found.seconds_per_token)
        lines.append(Padding(Text(extent, "dim"), (0, 0, 0, 3)))
        if show_text:
            lines.append(Padding(Text(words.difference(one.change)), (0, 0, 0, 3)))
    return lines


def requests_table(found: ExplainedRecording, rows: int) -> Table:
    """A row for each of the first requests."""
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("request", "conv."):
        table.add_column(title, header_style="bold", no_wrap=True)
    titles = ["prompt", "reusable", "changed", "new"]
    titles += [] if found.replayed is None else ["cached"]
    for title in titles:
        table.add_column(title, justify="right", header_style="bold", no_wrap=True)
    table.add_column("why", header_style="bold")
    for index, one in enumerate(found.requests[:rows]):
        counts: list[int | None] = [one.prompt_tokens, one.reusable_tokens]
        counts += [one.changed_tokens, one.new_tokens]
        if found.replayed is not None:
            counts.append(found.replayed[index].cached_tokens)
        why = Text(_why(one), "yellow" if one.change else "dim")
        shown = map(numbers.count, counts)
        table.add_row(one.request.place, str(one.conversation), *shown, why)
    return table


def _why(one: ExplainedRequest) -> str:
    if one.change is not None:
        more = len(one.changes) - 1
        return words.cause(one.change) + (f"; {more} more" if more else "")
    return "" if one.reusable_tokens else "nothing shared"
