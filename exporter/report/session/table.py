"""A session as a table for a terminal. No information is in colour alone."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from rich.box import Box
from rich.table import Table
from rich.text import Text

from exporter.analysis.session_totals import session_totals
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.model.session import SessionResult, TurnFacts

WIDE, WIDEST = 120, 150
"""Columns needed for whole words and a bar, and for more space around them."""
_BAR, _LONG_BAR = 18, 24
_RULE = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")  # two rules, nothing else
_RULE_ASCII = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)


class Mark(NamedTuple):
    """One word on how well the cache served a turn, and its colour."""

    word: str
    style: str


def mark(turn: TurnFacts, before: TurnFacts | None = None) -> Mark:
    """`cold`: a first turn that hit nothing, as it should. `full` to `MISS`: the share of the ideal
    that was served.

    A prompt repeats the one `before` it. If the ideal is less than half of that prompt, their
    beginnings differ: `low ideal`.
    """
    if turn.cached_tokens is None:
        return Mark("?", "magenta")
    if turn.index == 1:
        return Mark("cold", "dim") if turn.cached_tokens == 0 else Mark("warm", "yellow")
    efficiency = turn.efficiency_ratio
    if efficiency in {None, 1} and _low_ideal(turn, before):
        return Mark("low ideal", "yellow")
    if efficiency is None:
        return Mark("none", "dim") if turn.ideal_cached_tokens == 0 else Mark("?", "magenta")
    if efficiency == 1:
        return Mark("full", "green")
    if efficiency == 0:
        return Mark("MISS", "bold red")
    return Mark("part", "yellow") if efficiency >= 0.5 else Mark("low", "red")  # noqa: PLR2004


def _low_ideal(turn: TurnFacts, before: TurnFacts | None) -> bool:
    ideal = turn.ideal_cached_tokens
    if ideal is None or before is None or before.prompt_tokens is None:
        return False
    return ideal < before.prompt_tokens / 2


def turn_table(
    turns: Sequence[TurnFacts], *, width: int, ascii_only: bool, cold: bool = False
) -> Table:
    """The turns, and below them the sums. `cold` adds a column with the controls' TTFT.

    80 columns are enough. From `WIDE` columns on, each turn has a bar of its prompt.
    """
    wide = width >= WIDE
    names = [*(_NAMES if wide else _SHORT_NAMES)]
    if not cold:
        names.remove(names[_COLD])
    table = Table(
        box=_RULE_ASCII if ascii_only else _RULE,
        show_edge=False,
        show_footer=True,
        pad_edge=False,
        padding=(0, 1) if width >= WIDEST else 0,
        header_style="bold",
        footer_style="bold",
    )
    write = numbers.count if wide else _short_count
    for name, footer in zip(names, _footers(turns, write, cold=cold), strict=True):
        # In a narrow terminal a number is wrapped, never cut.
        table.add_column(name, footer=footer, justify="right", overflow="fold")
    table.columns[-1].justify = "left"
    if wide:
        table.add_column(_bar_header(ascii_only=ascii_only))
    for before, turn in pairwise([None, *turns]):
        if turn is None:
            continue
        cells: list[str | Text] = [*_cells(turn, mark(turn, before), cold=cold)]
        if wide:
            cells.append(_bar(turn, _BAR if width < WIDEST else _LONG_BAR))
        table.add_row(*cells)
    return table


_COLD = 8
_SHORT_NAMES = (
    *("turn", "prompt", "comple-\ntion", "cached", "hit\nratio", "ideal", "effi-\nciency"),
    *("TTFT", "cold\nTTFT", "latency", "cache"),
)
_NAMES = (
    *("turn", "prompt", "completion", "cached", "hit ratio", "ideal", "efficiency"),
    *("TTFT", "cold TTFT", "latency", "cache"),
)


def _cells(turn: TurnFacts, verdict: Mark, *, cold: bool) -> list[Text]:
    plain = [
        numbers.count(turn.index),
        numbers.count(turn.prompt_tokens),
        numbers.count(turn.completion_tokens),
        numbers.count(turn.cached_tokens),
    ]
    controls = [numbers.seconds(turn.cold_ttft_seconds)] if cold else []
    return [
        *map(Text, plain),
        Text(numbers.percent(turn.hit_ratio), verdict.style),
        Text(numbers.count(turn.ideal_cached_tokens)),
        Text(numbers.percent(turn.efficiency_ratio), verdict.style),
        *map(Text, (numbers.seconds(turn.ttft_seconds), *controls)),
        Text(numbers.seconds(turn.latency_seconds)),
        Text(verdict.word, verdict.style),
    ]


def _footers(
    turns: Sequence[TurnFacts], write: Callable[[float | None], str], *, cold: bool
) -> list[str]:
    totals = session_totals(turns)
    return [
        "all",
        write(totals.prompt_tokens),
        write(totals.completion_tokens),
        write(totals.cached_tokens),
        numbers.percent(totals.hit_ratio),
        write(totals.ideal_tokens),
        numbers.percent(totals.efficiency_ratio),
        *([""] * (4 if cold else 3)),
    ]


def _short_count(value: float | None) -> str:
    """For example 2.05M: the sums of a long context need more columns than its turns."""
    if value is None or value < 1e6:  # noqa: PLR2004
        return numbers.count(value)
    return f"{value / 1e6:.{2 if value < 1e7 else 1}f}M"  # noqa: PLR2004


def _bar(turn: TurnFacts, length: int) -> Text:
    """The prompt: tokens from cache, tokens lost, new tokens. A dash if unknown."""
    hit = turn.hit_ratio
    if hit is None:
        return Text(numbers.UNKNOWN)
    ideal = max(hit, turn.ideal_hit_ratio or 0.0)
    served = int(hit * length)  # rounded down, so that only a full hit fills the bar
    reachable = max(int(ideal * length), served + (ideal > hit))
    return Text.assemble(
        ("█" * served, "green"),
        ("▒" * (reachable - served), "red"),
        ("·" * (length - reachable), "dim"),
    )


def _bar_header(*, ascii_only: bool) -> str:
    served, lost, new = "#-." if ascii_only else "█▒·"
    return f"{served} hit {lost} lost {new} new"


def heading(result: SessionResult, url: str) -> Text:
    """Scenario, engine and time. Says clearly if the engine is simulated."""
    model, version = result.model or "an unknown model", result.engine_version
    text = Text.assemble((result.scenario, "bold"), f" against {model} at {url}\n")
    engine = f"vLLM {version}, " if version else ""
    duration = numbers.seconds(result.duration_seconds)
    text.append(f"{engine}{numbers.moment(result.started_time)}, {duration}", "dim")
    if result.simulated:
        text.append("\nSIMULATED", "bold reverse")
        text.append(": these numbers describe a simulator, not a model server.", "bold")
    return text
