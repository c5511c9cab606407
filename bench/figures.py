"""Figures of a benchmark: repeated values, their median and spread, goals and the baseline."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORSE_BY_SPREADS = 3.0
"""A figure is marked if its median is worse than the baseline's by this many spreads …"""
WORSE_BY_RATIO = 1.1
"""… and by this ratio too: a spread can be close to nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Values of repeated runs, of which less is better. `goal` is the most that the median may be.

    `key` names it in the baseline and never changes.
    """

    key: str
    title: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return quartile(self.values, 1)

    @property
    def high(self) -> float:
        return quartile(self.values, 3)

    @property
    def misses_goal(self) -> bool:
        return self.goal is not None and self.median > self.goal


def quartile(values: Sequence[float], which: int) -> float:
    """The first or third quartile; of fewer than four values the least or the greatest."""
    if len(values) < 4:
        return min(values) if which == 1 else max(values)
    return statistics.quantiles(values, n=4, method="inclusive")[which - 1]


def percentile_99(values: Sequence[float]) -> float:
    """The greatest of fewer than two values, as on a machine that is too busy for more."""
    if len(values) < 2:
        return max(values)
    return statistics.quantiles(values, n=100, method="inclusive")[98]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was measured before, and where."""

    machine: Mapping[str, str]
    figures: Mapping[str, Figure]

    @classmethod
    def read(cls, file: Path) -> Baseline | None:
        """None if there is no such file."""
        if not file.exists():
            return None
        data = json.loads(file.read_text("utf-8"))
        figures = [
            Figure(each["key"], each["title"], each["unit"], tuple(each["values"]), each["goal"])
            for each in data["figures"]
        ]
        return cls(data["machine"], {each.key: each for each in figures})


def write_baseline(file: Path, machine: Mapping[str, str], figures: Sequence[Figure]) -> None:
    rows = [
        {
            "key": each.key,
            "title": each.title,
            "unit": each.unit,
            "values": [float(f"{value:.5g}") for value in each.values],
            "goal": each.goal,
        }
        for each in figures
    ]
    text = json.dumps({"machine": dict(machine), "figures": rows}, indent=1)
    file.write_text(f"{text}\n", "utf-8")


@dataclass(frozen=True, slots=True)
class Change:
    """How far a median went from the baseline's: in percent, and in spreads of the wider one.

    The spread is half of the range between the quartiles. Positive is worse.
    """

    percent: float
    spreads: float

    @property
    def is_regression(self) -> bool:
        return self.spreads > WORSE_BY_SPREADS and self.percent > (WORSE_BY_RATIO - 1) * 100

    def __str__(self) -> str:
        far = ">99" if abs(self.spreads) > 99 else f"{abs(self.spreads):.1f}"
        return f"{self.percent:+.0f} % ({far} spreads){' WORSE' if self.is_regression else ''}"


def change(now: Figure, before: Figure | None) -> Change | None:
    """None if there is nothing to compare with."""
    if before is None or before.median == 0:
        return None
    spread = max((each.high - each.low) / 2 for each in (now, before))
    moved = now.median - before.median
    spreads = moved / spread if spread else (0.0 if moved == 0 else moved * float("inf"))
    return Change(moved / before.median * 100, spreads)


def rows(figures: Sequence[Figure], baseline: Baseline | None) -> list[tuple[str, ...]]:
    """Title, median, quartiles, number of values, goal, and how it compares, for each figure."""
    made: list[tuple[str, ...]] = []
    for each in figures:
        compared = change(each, baseline.figures.get(each.key) if baseline else None)
        goal = "" if each.goal is None else f"{short(each.goal)}"
        if each.misses_goal:
            goal += " MISSED"
        made.append(
            (
                each.title,
                f"{short(each.median)} {each.unit}",
                f"{short(each.low)} to {short(each.high)}",
                str(len(each.values)),
                goal,
                "" if compared is None else str(compared),
            )
        )
    return made


HEADS = ("figure", "median", "quartiles", "n", "goal", "against the baseline")


def as_text(table: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[place]) for row in (HEADS, *table)) for place in range(len(HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (HEADS, *table)
    ]
    return "\n".join((lines[0], "─" * max(map(len, lines)), *lines[1:]))


def as_markdown(table: Sequence[tuple[str, ...]]) -> str:
    """Without the comparison: the page shows one run."""
    kept = [row[:-1] for row in (HEADS, *table)]
    lines = [f"| {' | '.join(row)} |" for row in kept]
    return "\n".join((lines[0], "| --- | ---: | --- | ---: | --- |", *lines[1:]))


def short(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
