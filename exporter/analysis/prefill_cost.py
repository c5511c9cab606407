"""What a prompt token costs in prefill: the line of TTFT over uncached tokens.

    TTFT = floor + slope * (prompt tokens - cached tokens)

The slope is the prefill seconds per token of this server under its present load. The floor is what
every request pays: network, queue, one step.

Some requests wait in a queue, so a first line leaves them out: its slope is the median slope
between a cold and a warm request (after Theil and Sen), which a minority of wild points cannot
move. A point further from this line than five times the median distance is left out, and least
squares fit the rest. Distances are relative to the line, because a request that takes ten times as
long varies about ten times as much. For the same reason the standard error is the
heteroscedasticity-consistent HC3 (MacKinnon and White, 1985): it divides each residual by one minus
its leverage, so a few cold points count as few, however many warm ones there are.

The work grows with the number of points, not with the number of their pairs: a fit runs on the
event loop after each session, where a millisecond would delay the time stamps of other targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from math import sqrt
from statistics import fmean, linear_regression, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.model.session import TurnFacts

POINTS_KEPT = 128
"""About the last fifteen sessions of eight turns: recent, since load and engines change."""
_LEAST_POINTS = 10
_LEAST_PER_HALF = 3
_LEAST_RATIO = 4.0
"""The slope must be this many standard errors above 0."""

_OUTLIER = 5.0  # times the median distance from the first line
_LEAST_OF_MEDIAN = 0.01  # a line that runs below this share of the median TTFT is held there
_LEAST_DISTANCE = 1e-9  # relative to the line; smaller ones are rounding errors

_Points = list[tuple[float, float]]
"""Uncached tokens and seconds to the first token."""


@dataclass(frozen=True, slots=True)
class Point:
    """One request: prompt tokens that were computed, and seconds to the first token."""

    uncached_tokens: int
    ttft_seconds: float


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """The fitted line. `error` is the standard error of the slope, in the slope's unit.

    The intercept is the line's value at nothing to compute. It may lie below 0: where the requests
    pay next to nothing besides prefill, or where the cost bends upwards over long prompts.
    """

    seconds_per_token: float
    error: float
    intercept_seconds: float
    points: int

    @property
    def floor_seconds(self) -> float | None:
        """What every request pays; None where the line says less than nothing."""
        return self.intercept_seconds if self.intercept_seconds >= 0 else None

    def ttft_seconds(self, uncached_tokens: float) -> float:
        """What the line says of a request that computes so many prompt tokens."""
        return self.intercept_seconds + self.seconds_per_token * uncached_tokens


def points_of(turns: Iterable[TurnFacts]) -> list[Point]:
    """The points of turns and of their cold controls. A turn with an unknown part gives none, and
    neither does one with tokens from a store: loading them takes time.
    """
    points = []
    for turn in turns:
        known = None not in (turn.prompt_tokens, turn.cached_tokens, turn.ttft_seconds)
        if known and not turn.external_cached_tokens:
            computed = (turn.prompt_tokens or 0) - (turn.cached_tokens or 0)
            points.append(Point(computed, turn.ttft_seconds or 0.0))
        cold = turn.cold_ttft_seconds
        if turn.control is not None and turn.control.prompt_tokens and cold is not None:
            points.append(Point(turn.control.prompt_tokens, cold))
    return points


def with_points(kept: Sequence[Point], new: Iterable[Point]) -> tuple[Point, ...]:
    """The latest `POINTS_KEPT` of both, in the order in which they came."""
    return (*kept, *new)[-POINTS_KEPT:]


def prefill_cost(points: Sequence[Point]) -> PrefillCost | None:
    """The fitted cost, None where the points do not show one.

    They do if there are ten or more, three or more of them in each half of the range of uncached
    tokens (one cold request alone must not set the slope), also after outliers are left out, and if
    the slope is at least four standard errors above 0.
    """
    # Sorted, so that the order in which they came does not matter.
    all_points = sorted((float(one.uncached_tokens), one.ttft_seconds) for one in points)
    if not _enough(all_points):
        return None
    kept = _without_outliers(all_points)
    if not _enough(kept):
        return None
    tokens, seconds = zip(*kept, strict=True)
    slope, intercept = linear_regression(tokens, seconds)
    error = _slope_error(kept, slope, intercept)
    if slope <= 0 or slope < _LEAST_RATIO * error:
        return None
    return PrefillCost(slope, error, intercept, len(points))


def _halves(points: _Points) -> tuple[_Points, _Points]:
    """The points below and above the middle of the range of uncached tokens."""
    middle = (points[0][0] + points[-1][0]) / 2
    return [one for one in points if one[0] < middle], [one for one in points if one[0] > middle]


def _enough(points: _Points) -> bool:
    return len(points) >= _LEAST_POINTS and min(map(len, _halves(points))) >= _LEAST_PER_HALF


def _without_outliers(points: _Points) -> _Points:
    """The points near the median line. Each point of the larger half is in one pair."""
    few, many = sorted(_halves(points), key=len)
    pairs = zip(many, cycle(few), strict=False)
    slope = median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in pairs)
    floor = median(y - slope * x for x, y in points)
    least = max(median(y for _, y in points) * _LEAST_OF_MEDIAN, _LEAST_DISTANCE)
    distances = [abs(y - floor - slope * x) / max(floor + slope * x, least) for x, y in points]
    limit = _OUTLIER * max(median(distances), _LEAST_DISTANCE)
    return [one for one, distance in zip(points, distances, strict=True) if distance <= limit]


def _slope_error(points: _Points, slope: float, intercept: float) -> float:
    """The HC3 standard error of a slope that least squares fitted."""
    mean = fmean(x for x, _ in points)
    spread = sum((x - mean) ** 2 for x, _ in points)
    variance = 0.0
    for x, y in points:
        leverage = 1 / len(points) + (x - mean) ** 2 / spread
        variance += ((x - mean) * (y - intercept - slope * x) / (1 - leverage)) ** 2
    return sqrt(variance) / spread
