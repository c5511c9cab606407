"""The small charts of the status page, as SVG paths and labels. Pure.

A chart has a box of WIDTH by HEIGHT. The class of a mark sets its colour and stroke in status.css.
Different kinds of mark in one chart differ in shape too, not only in colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.wording import numbers
from exporter.wording.reuse_rules import GIVEN_UP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from exporter.model.session import TurnFacts

WIDTH, HEIGHT = 340, 130
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 334, 12, 106
_MAX_BAR = 26
_LABELLED = 12  # up to so many turns, each has its number; of more, only the first and the last

_SOURCES = {
    "hit": "from cache",
    "lost": "lost",
    "rule": GIVEN_UP,
    "new": "new",
    "unsplit": "unknown",
}
"""The sources of prompt tokens, in words."""

_SQUARE = "M1 1h10v10h-10z"
KEY_PATHS = {
    **dict.fromkeys(_SOURCES, _SQUARE),
    "dot": "M6 6h0",
    "cold": "M3 6h6",
    "best": "M0 6h12",
    "reach": "M0 6h12",
    "cross": "M3 3l6 6m0-6l-6 6",
}
"""The path of each kind in a legend, in a box of 12 by 12."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One path with one class."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Label:
    """A text at a place. `anchor` is the class for its alignment, "end" or "middle"."""

    x: int
    y: int
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of the legend: the meaning of a kind of mark."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`description` is for readers who do not see the picture."""

    name: str
    title: str
    description: str
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class SessionPoint:
    """One session of a trend; ratios are None where unknown."""

    hit_ratio: float | None
    ideal_ratio: float | None
    failed: bool
    attainable_ratio: float | None = None


def bar_width(ratio: float) -> float:
    """Per cent of a bar's length."""
    return round(100 * min(max(ratio, 0.0), 1.0), 1)


def turn_charts(turns: Sequence[TurnFacts]) -> tuple[Chart, ...]:
    """The sources of the prompt tokens, and the time to first token."""
    charts = (_tokens_chart(turns), _ttft_chart(turns))
    return tuple(chart for chart in charts if chart is not None)


def trend_chart(points: Sequence[SessionPoint]) -> Chart | None:
    """Hit ratios of sessions, oldest first; None for fewer than two sessions or no known ratio."""
    known = [point.hit_ratio for point in points if point.hit_ratio is not None]
    if len(points) < 2 or not known:  # noqa: PLR2004 - one point is no curve
        return None
    failed = sum(point.failed for point in points)
    place = _places(len(points))
    heights = [None if one.hit_ratio is None else _height(one.hit_ratio, 1) for one in points]
    ideals = [None if one.ideal_ratio is None else _height(one.ideal_ratio, 1) for one in points]
    reach = _reach(points)
    crosses = "".join(
        f"M{place(n) - 3} {_BOTTOM - 7}l6 6m0-6l-6 6" for n, one in enumerate(points) if one.failed
    )
    marks = (
        Mark("grid", _grid()),
        Mark("half", f"M{_LEFT} {_height(0.5, 1)}H{_RIGHT}"),
        Mark("best", _line(place, ideals)),
        Mark("reach", _line(place, reach)),
        Mark("line", _line(place, heights)),
        Mark("dot", _dots(place, heights)),
        Mark("cross", crosses),
    )
    keys = [Key("dot", "hit ratio")]
    keys += [Key("best", "ideal")] if any(one is not None for one in ideals) else []
    keys += [Key("reach", "attainable")] if any(one is not None for one in reach) else []
    keys += [Key("cross", "failed")] if failed else []
    return Chart(
        "trend",
        f"Hit ratio of the last {len(points)} sessions",
        f"Lowest {numbers.percent(min(known))}, highest {numbers.percent(max(known))}, "
        f"latest known {numbers.percent(known[-1])}; {failed} failed. Oldest on the left.",
        _drawn(marks),
        (
            *_scale("100 %"),
            Label(_LEFT - 5, _height(0.5, 1) + 4, "end", "50 %"),
            Label(_LEFT, HEIGHT - 8, "start", "oldest"),
            Label(_RIGHT, HEIGHT - 8, "end", "latest"),
        ),
        tuple(keys),
    )


def _reach(points: Sequence[SessionPoint]) -> list[int | None]:
    """The heights of what was attainable; none where that is the ideal in every session."""
    if all(one.attainable_ratio in (None, one.ideal_ratio) for one in points):
        return [None] * len(points)
    known = [one.attainable_ratio for one in points]
    return [None if ratio is None else _height(ratio, 1) for ratio in known]


def _tokens_chart(turns: Sequence[TurnFacts]) -> Chart | None:
    most = max((turn.prompt_tokens or 0 for turn in turns), default=0)
    if not most:
        return None
    bars = dict.fromkeys(_SOURCES, "")
    place = _places(len(turns))
    width = max(1, min(_MAX_BAR, round(0.7 * (_RIGHT - _LEFT) / len(turns))))
    for n, turn in enumerate(turns):
        low = 0
        for kind, tokens in _split(turn):
            bottom, top = _height(low, most), _height(low + tokens, most)
            if tokens:
                bars[kind] += f"M{place(n) - width // 2} {bottom}h{width}V{top}h-{width}z"
            low += tokens
    return Chart(
        "tokens",
        "Prompt tokens by turn",
        "One bar for each turn, split by the source of its prompt. The table has the numbers.",
        (Mark("grid", _grid()), *(Mark(kind, path) for kind, path in bars.items() if path)),
        (*_scale(numbers.count(most)), *_turn_numbers(turns)),
        tuple(Key(kind, _SOURCES[kind]) for kind, path in bars.items() if path),
    )


def _split(turn: TurnFacts) -> list[tuple[str, int]]:
    prompt, cached = turn.prompt_tokens, turn.cached_tokens
    if prompt is None:
        return []
    if cached is None:
        return [("unsplit", prompt)]
    lost = 0 if turn.loss is None else turn.loss.tokens
    rule = sum(part.tokens for part in turn.rule_losses)
    new = max(0, prompt - cached - lost - rule)
    unsplit = min(new, _unknown_part(turn, cached + lost))
    parts = {"hit": cached, "lost": lost, "rule": rule, "unsplit": unsplit, "new": new - unsplit}
    return list(parts.items())


def _unknown_part(turn: TurnFacts, known: int) -> int:
    """The tokens below the ideal that may be lost or given up: the reuse rule is unknown."""
    if turn.ideal_cached_tokens is None or turn.attainable_cached_tokens is not None:
        return 0
    return max(0, turn.ideal_cached_tokens - known)


def _ttft_chart(turns: Sequence[TurnFacts]) -> Chart | None:
    times = [turn.ttft_seconds for turn in turns]
    cold = [turn.cold_ttft_seconds for turn in turns]
    known = [seconds for seconds in (*times, *cold) if seconds is not None]
    most = max(known, default=0.0)
    if not most:
        return None
    place = _places(len(turns))
    heights = [None if seconds is None else _height(seconds, most) for seconds in times]
    squares = "".join(
        f"M{place(n) - 3} {_height(seconds, most)}h6"
        for n, seconds in enumerate(cold)
        if seconds is not None
    )
    marks = (
        Mark("grid", _grid()),
        Mark("line", _line(place, heights)),
        Mark("dot", _dots(place, heights)),
        Mark("cold", squares),
    )
    return Chart(
        "ttft",
        "Time to first token by turn",
        "One point for each turn, and one square for each cold control. The table has the numbers.",
        _drawn(marks),
        (*_scale(numbers.seconds(most)), *_turn_numbers(turns)),
        (Key("dot", "turn"), *([Key("cold", "cold control")] if squares else [])),
    )


def _drawn(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    return tuple(mark for mark in marks if mark.path)


def _grid() -> str:
    return f"M{_LEFT} {_BOTTOM}H{_RIGHT}M{_LEFT} {_TOP}H{_RIGHT}"


def _scale(top: str) -> tuple[Label, Label]:
    """Labels of the scale from 0 to `top`."""
    return Label(_LEFT - 5, _TOP + 4, "end", top), Label(_LEFT - 5, _BOTTOM + 4, "end", "0")


def _turn_numbers(turns: Sequence[TurnFacts]) -> list[Label]:
    place = _places(len(turns))
    shown = range(len(turns)) if len(turns) <= _LABELLED else (0, len(turns) - 1)
    return [Label(place(n), HEIGHT - 8, "middle", str(turns[n].index)) for n in shown]


def _places(count: int) -> Callable[[int], int]:
    """The x of the middle of each of `count` equal slots."""
    return lambda n: round(_LEFT + (n + 0.5) * (_RIGHT - _LEFT) / count)


def _height(value: float, most: float) -> int:
    share = min(max(value / most, 0.0), 1.0)
    return round(_BOTTOM - share * (_BOTTOM - _TOP))


def _line(place: Callable[[int], int], heights: Sequence[int | None]) -> str:
    """A line through the known values, with a gap where one is unknown."""
    path, pen_down = "", False
    for n, height in enumerate(heights):
        if height is not None:
            path += f"{'L' if pen_down else 'M'}{place(n)} {height}"
        pen_down = height is not None
    return path


def _dots(place: Callable[[int], int], heights: Sequence[int | None]) -> str:
    """A line of no length for each value: its round ends make it a dot."""
    return "".join(f"M{place(n)} {y}h0" for n, y in enumerate(heights) if y is not None)
