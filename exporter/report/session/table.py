"""A session as a table for a terminal. No information is in colour alone."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from rich.box import Box
from rich.table import Table
from rich.text import Text

from exporter.analysis.session_totals import session_totals
from exporter.report.session.series import attainable_differs, prompt_split
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.session import SessionResult, TurnFacts

WIDE, WIDEST = 120, 150
"""Columns needed for whole words and a bar, and for more space around them."""
_BAR, _LONG_BAR = 18, 24
_RULE_WIDTH = 18  # what the column of attainable tokens and the longer legend need
_RULE = Box("    \n    \n ── \n    \n    \n ── \n    \n    \n")  # two rules, nothing else
_RULE_ASCII = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)


_REPEATED = 0.75


class Mark(NamedTuple):
    """One word on how well the cache served a turn, and its colour."""

    word: str
    style: str


def mark(turn: TurnFacts, before: TurnFacts | None = None) -> Mark:
    """`cold`: a first turn that hit nothing, as it should. `full` to `MISS`: the share of the
    attainable tokens that was served.

    A prompt repeats the one `before` it. If the ideal is less than three quarters of that prompt,
    their beginnings differ: `low ideal`. A built-in opening has eight match units, so the last one,
    which may be incomplete, is less than that.
    """
    if turn.cached_tokens is None:
        return Mark("?", "magenta")
    if turn.index == 1:
        return Mark("cold", "dim") if turn.cached_tokens == 0 else Mark("warm", "yellow")
    efficiency = turn.efficiency_ratio
    if efficiency in {None, 1} and _low_ideal(turn, before):
        return Mark("low ideal", "yellow")
    if efficiency is None:
        nothing = 0 in (turn.ideal_cached_tokens, turn.attainable_cached_tokens)
        return Mark("none", "dim") if nothing else Mark("?", "magenta")
    if efficiency == 1:
        return Mark("full", "green")
    if efficiency == 0:
        return Mark("MISS", "bold red")
    return Mark("part", "yellow") if efficiency >= 0.5 else Mark("low", "red")  # noqa: PLR2004


def _low_ideal(turn: TurnFacts, before: TurnFacts | None) -> bool:
    ideal = turn.ideal_cached_tokens
    if ideal is None or before is None or before.prompt_tokens is None:
        return False
    return ideal < _REPEATED * before.prompt_tokens


def turn_table(
    turns: Sequence[TurnFacts], *, width: int, ascii_only: bool, cold: bool = False
) -> Table:
    """The turns, and below them the sums. `cold` adds a column with the controls' TTFT. Where the
    engine's reuse rule gives up tokens, a column has what it lets the engine serve, and where a
    store served some, another has its part of the cached tokens.

    A narrow terminal gets fewer columns, so that no word or number is broken from 60 columns on.
    From `WIDE` columns on, each turn has a bar of its prompt.
    """
    ruled = attainable_differs(turns)
    stored = any(turn.external_cached_tokens for turn in turns)
    more = _RULE_WIDTH if ruled else 0
    wide, widest = width >= WIDE + more, width >= WIDEST + more
    columns = _columns(cold=cold, ruled=ruled, stored=stored)
    if not wide:
        columns = _fitting(columns, turns, width)
    table = Table(
        box=_RULE_ASCII if ascii_only else _RULE,
        show_edge=False,
        show_footer=True,
        pad_edge=False,
        padding=(0, 1) if widest else 0,
        header_style="bold",
        footer_style="bold",
    )
    totals, write = session_totals(turns), numbers.count if wide else _short_count
    for column in columns:
        # In a narrow terminal a number is wrapped, never cut.
        name = column.name if wide else column.short or column.name
        footer = column.sum(totals, write)
        table.add_column(name, footer=footer, justify="right", overflow="fold")
    table.columns[-1].justify = "left"
    if wide:
        table.add_column(_bar_header(ascii_only=ascii_only, ruled=ruled))
    for before, turn in pairwise([None, *turns]):
        if turn is None:
            continue
        verdict = mark(turn, before)
        cells = [_cell(column, turn, verdict) for column in columns]
        if wide:
            cells.append(_bar(turn, _LONG_BAR if widest else _BAR))
        table.add_row(*cells)
    return table


def _no_sum(_totals: SessionTotals, _write: Callable[[float | None], str]) -> str:
    return ""


class _Column(NamedTuple):
    """`short` is the name in a narrow terminal, if that is another one. A `marked` column has the
    colour of the turn's mark.
    """

    name: str
    cell: Callable[[TurnFacts], str]
    sum: Callable[[SessionTotals, Callable[[float | None], str]], str] = _no_sum
    short: str = ""
    marked: bool = False


_PROMPT = _Column(
    "prompt",
    lambda turn: numbers.count(turn.prompt_tokens),
    lambda totals, write: write(totals.prompt_tokens),
)
_IDEAL = _Column(
    "ideal",
    lambda turn: numbers.count(turn.ideal_cached_tokens),
    lambda totals, write: write(totals.ideal_tokens),
)
_LATENCY = _Column("latency", lambda turn: numbers.seconds(turn.latency_seconds))
_COMPLETION = _Column(
    "completion",
    lambda turn: numbers.count(turn.completion_tokens),
    lambda totals, write: write(totals.completion_tokens),
    "compl.",
)
_ATTAINABLE = _Column(
    "attainable",
    lambda turn: numbers.count(turn.attainable_cached_tokens),
    lambda totals, write: write(totals.attainable_tokens),
    "attain.",
)
_EXTERNAL = _Column(
    "external",
    lambda turn: numbers.count(turn.external_cached_tokens),
    lambda totals, write: write(totals.external_tokens),
    "extern.",
)
_COLD = _Column(
    "cold TTFT", lambda turn: numbers.seconds(turn.cold_ttft_seconds), short="cold\nTTFT"
)
_MARK = _Column("cache", lambda _turn: "", marked=True)
_COLUMNS = (
    _Column("turn", lambda turn: numbers.count(turn.index), lambda _totals, _write: "all"),
    _PROMPT,
    _COMPLETION,
    _Column(
        "cached",
        lambda turn: numbers.count(turn.cached_tokens),
        lambda totals, write: write(totals.cached_tokens),
    ),
    _EXTERNAL,
    _Column(
        "hit ratio",
        lambda turn: numbers.percent(turn.hit_ratio),
        lambda totals, _write: numbers.percent(totals.hit_ratio),
        "hit\nratio",
        marked=True,
    ),
    _IDEAL,
    _ATTAINABLE,
    _Column(
        "efficiency",
        lambda turn: numbers.percent(turn.efficiency_ratio),
        lambda totals, _write: numbers.percent(totals.efficiency_ratio),
        "eff.",
        marked=True,
    ),
    _Column("TTFT", lambda turn: numbers.seconds(turn.ttft_seconds)),
    _COLD,
    _LATENCY,
    _MARK,
)


_FIRST_LEFT_OUT = (_COMPLETION, _IDEAL, _LATENCY, _ATTAINABLE, _EXTERNAL, _PROMPT, _COLD)
"""What a narrow terminal gets last: the other columns say how well the cache works."""


def _fitting(columns: Sequence[_Column], turns: Sequence[TurnFacts], width: int) -> list[_Column]:
    """The columns without those that find no room in `width`."""
    left = list(columns)
    for one in _FIRST_LEFT_OUT:
        if sum(_width(column, turns) + 1 for column in left) - 1 <= width:
            break
        left = [column for column in left if column is not one]
    return left


def _width(column: _Column, turns: Sequence[TurnFacts]) -> int:
    if column is _MARK:
        words = [mark(turn, before).word for before, turn in pairwise([None, *turns]) if turn]
    else:
        words = [column.cell(turn) for turn in turns]
    footer = column.sum(session_totals(turns), _short_count)
    header = (column.short or column.name).split("\n")
    return max(map(len, (*words, footer, *header)))


def _columns(*, cold: bool, ruled: bool, stored: bool) -> list[_Column]:
    left_out = {_COLD: not cold, _ATTAINABLE: not ruled, _EXTERNAL: not stored}
    return [column for column in _COLUMNS if not left_out.get(column, False)]


def _cell(column: _Column, turn: TurnFacts, verdict: Mark) -> Text:
    text = verdict.word if column is _MARK else column.cell(turn)
    return Text(text, verdict.style if column.marked else "")


def _short_count(value: float | None) -> str:
    """For example 2.05M: the sums of a long context need more columns than its turns."""
    if value is None or value < 1e6:  # noqa: PLR2004
        return numbers.count(value)
    return f"{value / 1e6:.{2 if value < 1e7 else 1}f}M"  # noqa: PLR2004


def _bar(turn: TurnFacts, length: int) -> Text:
    """The prompt: tokens from cache, lost, given up by the engine's reuse rule, unknown, new. A
    dash if its cached tokens are unknown.
    """
    split, prompt = prompt_split(turn), turn.prompt_tokens
    if split is None or turn.cached_tokens is None or not prompt:
        return Text(numbers.UNKNOWN)
    bar, tokens = Text(), 0
    for part, character, style in (
        (split.cached, "█", "green"),
        (split.lost, "▒", "red"),
        (split.given_up, "░", "cyan"),
        (split.unknown, "?", "magenta"),
    ):
        tokens += part
        end = int(tokens / prompt * length)  # rounded down, so that only a full hit fills the bar
        least = character != "█" and part > 0
        bar.append(character * max(end - len(bar), least), style)
    bar.append("·" * (length - len(bar)), "dim")
    bar.truncate(length)
    return bar


def _bar_header(*, ascii_only: bool, ruled: bool) -> str:
    served, lost, rule, new = "#-=." if ascii_only else "█▒░·"
    return f"{served} hit {lost} lost {f'{rule} rule ' if ruled else ''}{new} new"


def heading(result: SessionResult, url: str) -> Text:
    """Scenario, engine and time. Says clearly if the engine is simulated."""
    model, version = result.model or "an unknown model", result.engine_version
    text = Text.assemble((result.scenario, "bold"), f" against {model} at {url}\n")
    engine = f"vLLM {version}, " if version else ""
    duration = numbers.seconds(result.duration_seconds)
    rank = result.data_parallel_rank
    pinned = "" if rank is None else f", pinned to data-parallel rank {rank}"
    over = "" if result.api == "chat_completions" else f", over the API {result.api}"
    text.append(f"{engine}{numbers.moment(result.started_time)}, {duration}{over}{pinned}", "dim")
    if result.simulated:
        text.append("\nSIMULATED", "bold reverse")
        text.append(": these numbers describe a simulator, not a model server.", "bold")
    return text
