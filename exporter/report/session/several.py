"""Several sessions on one engine: a row for each, and the median and the middle half of all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from exporter.analysis.paired import Spread, spread
from exporter.analysis.session_totals import session_totals
from exporter.report.session.table import heading
from exporter.report.session.text import closing
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from exporter.model.session import SessionResult


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a session: its JSON key, its title, and how to compute and to write it."""

    key: str
    title: str
    of: Callable[[SessionResult], float | None]
    write: Callable[[float | None], str]


def _first_ttft(result: SessionResult) -> float | None:
    return next((turn.ttft_seconds for turn in result.turns if turn.index == 1), None)


def _later_ttft(result: SessionResult) -> float | None:
    return _median([turn.ttft_seconds for turn in result.turns if turn.index > 1])


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


QUANTITIES = (
    Quantity("hit_ratio", "hit\nratio", lambda one: session_totals(one.turns).hit_ratio,
             numbers.percent),
    Quantity("efficiency_ratio", "efficiency",
             lambda one: session_totals(one.turns).efficiency_ratio, numbers.percent),
    Quantity("first_ttft_seconds", "TTFT\nturn 1", _first_ttft, numbers.seconds),
    Quantity("ttft_seconds", "TTFT\nlater", _later_ttft, numbers.seconds),
    Quantity("latency_seconds", "latency",
             lambda one: _median([turn.latency_seconds for turn in one.turns]), numbers.seconds),
)  # fmt: skip
"""TTFT later and latency are the median over the turns of the session."""


def spreads(results: Sequence[SessionResult]) -> dict[str, Spread]:
    """The spread over the finished sessions, of each quantity that is known."""
    finished = [one for one in results if one.failure is None]
    found = {
        each.key: spread([value for one in finished if (value := each.of(one)) is not None])
        for each in QUANTITIES
    }
    return {key: known for key, known in found.items() if known is not None}


def session_line(number: int, result: SessionResult) -> str:
    """One session in one line of less than 80 columns, for progress and for `--watch`."""
    time = datetime.fromtimestamp(result.started_time, UTC).strftime("%H:%M:%S")
    if result.failure is not None:
        said = f"failed: {numbers.spaced(result.failure.reason)}"
        return f"{time}  session {number}: {said}"
    hit, efficiency, _, ttft, _ = (each.write(each.of(result)) for each in QUANTITIES)
    return (
        f"{time}  session {number}: {hit} from cache, efficiency {efficiency}, "
        f"TTFT {ttft}"
    )  # fmt: skip


def sessions_report(results: Sequence[SessionResult], url: str, *, interrupted: bool) -> Group:
    """The table of all sessions, and the verdict on the one with the lowest efficiency."""
    ranks = [_rank(one) for one in results]
    worst = ranks.index(min(ranks))
    table: list[RenderableType] = [sessions_table(results), ""] if spreads(results) else []
    stopped = "Interrupted. " if interrupted else ""
    head = f"{stopped}{_counted(results)}"
    if len(results) > 1:
        alike = len(set(ranks)) == 1
        head += ". All are alike" if alike else f". The worst is session {worst + 1}"
    return Group(
        heading(results[0], url),
        "",
        *table,
        Text(f"{head}:", "bold"),
        closing(results[worst], interrupted=False),
    )


def _counted(results: Sequence[SessionResult]) -> str:
    failed = sum(one.failure is not None for one in results)
    if len(results) == 1:
        return f"1 session{', which failed' if failed else ''}"
    return f"{len(results)} sessions{f', {failed} failed' if failed else ''}"


def _rank(result: SessionResult) -> tuple[bool, float, float]:
    """Failed sessions come first, then those of low efficiency, then those of low hit ratio."""
    totals = session_totals(result.turns)
    efficiency, hit = totals.efficiency_ratio, totals.hit_ratio
    return (
        result.failure is None,
        2 if efficiency is None else efficiency,
        2 if hit is None else hit,
    )


def sessions_table(results: Sequence[SessionResult]) -> Table:
    """A row for each session, then the median and the quartiles."""
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("session", header_style="bold")
    for each in QUANTITIES:
        table.add_column(each.title, justify="right", header_style="bold", no_wrap=True)
    for number, one in enumerate(results, start=1):
        if one.failure is None:
            table.add_row(str(number), *(each.write(each.of(one)) for each in QUANTITIES))
        else:
            table.add_row(str(number), Text("failed", "bold red"))
    known = spreads(results)
    for name, read in _ROWS:
        cells = [
            each.write(read(known[each.key])) if each.key in known else numbers.UNKNOWN
            for each in QUANTITIES
        ]
        table.add_row(Text(name, "bold"), *(Text(cell, "bold") for cell in cells))
    return table


_ROWS: tuple[tuple[str, Callable[[Spread], float]], ...] = (
    ("median", lambda known: known.median),
    ("quartile 1", lambda known: known.lower_quartile),
    ("quartile 3", lambda known: known.upper_quartile),
)
