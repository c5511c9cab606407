"""What a prompt token costs in prefill: the line of TTFT over uncached tokens. Pure.

    TTFT = floor + slope * (prompt tokens - cached tokens)

The slope is the prefill seconds per token of this server under its present load, the floor is what
every request pays: network, queue, one step.

A request that takes ten times as long varies about ten times as much, so the residuals are taken
relative to the line; taken in seconds, the short warm requests would make outliers of all cold
ones. The fit is a two-step M-estimate. It starts from the median slope between points of the lower
and points of the upper half of the range of uncached tokens (after Theil and Sen; a few pairs of
each point do), which a minority of wild points cannot move. The scale is the median absolute
residual of that line. Then the points are weighted by Tukey's biweight, two times: one step from
such a start is already as efficient as the settled estimate (Bickel, 1975). The standard error is
the sandwich one of such an estimate, with each residual divided by one minus its leverage (HC3;
MacKinnon and White, 1985): the few cold points then count as few, whatever the many warm ones look
like.

The work grows with the number of points, not with that of their pairs: a fit runs on the event loop
after each session, where a millisecond would delay the time stamps of other targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from math import inf, sqrt
from operator import mul
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from exporter.model.session import TurnFacts

POINTS_KEPT = 128
"""About the last fifteen sessions of eight turns: recent, since load and engines change."""
_LEAST_POINTS = 10
_LEAST_PER_HALF = 3
_LEAST_RATIO = 4.0
"""The slope must be this many standard errors above 0."""

_BIWEIGHT = 4.685  # 95 % as efficient as least squares on Gaussian residuals
_MAD_TO_DEVIATION = 1.4826
_SMALLEST_SCALE = 1e-9  # of the line: points that lie on it as well as numbers can
_LEAST_OF_MEDIAN = 0.01  # a line that runs below this share of the median TTFT is held there
_STEPS = 2
_PAIRS = 3


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
    """The points of turns and of their cold controls; a turn with an unknown part gives none."""
    points = []
    for turn in turns:
        if None not in (turn.prompt_tokens, turn.cached_tokens, turn.ttft_seconds):
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
    if len(points) < _LEAST_POINTS or not _spread([point.uncached_tokens for point in points]):
        return None
    fit = _Fit(points)
    kept = fit.kept()
    if len(kept) < _LEAST_POINTS or not _spread(kept):
        return None
    error = fit.error()
    if fit.slope <= 0 or fit.slope < _LEAST_RATIO * error:
        return None
    return PrefillCost(fit.slope, error, fit.floor, len(points))


def _spread(xs: Sequence[float]) -> bool:
    middle = (min(xs) + max(xs)) / 2
    below = sum(x < middle for x in xs)
    above = sum(x > middle for x in xs)
    return min(below, above) >= _LEAST_PER_HALF


class _Fit:
    """The points of one fit, three or more in each half, and the cut of their relative residuals.

    `slope` and `floor` are the line that was found.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._xs = [float(point.uncached_tokens) for point in points]
        self._ys = [point.ttft_seconds for point in points]
        self._least = max(median(self._ys) * _LEAST_OF_MEDIAN, _SMALLEST_SCALE)
        self.slope, self.floor = _median_line(self._xs, self._ys)
        precisions, residuals = self._at_line()
        deviation = _MAD_TO_DEVIATION * median(map(abs, residuals))
        self._cut = _BIWEIGHT * max(deviation, _SMALLEST_SCALE)
        for _ in range(_STEPS):
            weights = [
                _biweight(residual / self._cut) * precision * precision
                for residual, precision in zip(residuals, precisions, strict=True)
            ]
            line = _weighted_line(self._xs, self._ys, weights)
            if line is None:
                break
            self.slope, self.floor = line
            precisions, residuals = self._at_line()
        self._precisions, self._residuals = precisions, residuals

    def kept(self) -> list[float]:
        """The uncached tokens of the points that the biweight does not cut off."""
        cut = self._cut
        return [x for x, each in zip(self._xs, self._residuals, strict=True) if -cut < each < cut]

    def error(self) -> float:
        """The standard error of the slope; infinite where the points do not determine one."""
        squares = [precision * precision for precision in self._precisions]
        total = sum(squares)
        mean_x = _dot(squares, self._xs) / total
        pulls = [w * (x - mean_x) ** 2 for w, x in zip(squares, self._xs, strict=True)]
        spread = sum(pulls)
        scaled = [residual / self._cut for residual in self._residuals]
        steepness = fmean((1 - u * u) * (1 - 5 * u * u) if -1 < u < 1 else 0.0 for u in scaled)
        if steepness <= 0:
            return inf
        variance = 0.0
        for square, pull, u in zip(squares, pulls, scaled, strict=True):
            leverage = square / total + pull / spread
            if leverage >= 1:
                return inf
            variance += pull * (u * _biweight(u) / (1 - leverage)) ** 2
        return self._cut * sqrt(variance) / spread / steepness

    def _at_line(self) -> tuple[list[float], list[float]]:
        """Of each point 1 / line, and (TTFT - line) / line."""
        slope, floor, least = self.slope, self.floor, self._least
        precisions = [
            1 / on_line if (on_line := floor + slope * x) > least else 1 / least for x in self._xs
        ]
        residuals = [
            (y - floor - slope * x) * precision
            for x, y, precision in zip(self._xs, self._ys, precisions, strict=True)
        ]
        return precisions, residuals


def _median_line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope and floor: the medians of the slopes of pairs, and of what the slope leaves.

    A pair has a point in either half of the range. Each point of the larger half is in three.
    """
    middle = (min(xs) + max(xs)) / 2
    points = sorted(zip(xs, ys, strict=True))  # the order in which they came must not matter
    low = [point for point in points if point[0] < middle]
    high = [point for point in points if point[0] > middle]
    few, many = sorted((low, high), key=len)
    slopes = [
        (y2 - y1) / (x2 - x1)
        for shift in range(_PAIRS)
        for (x1, y1), (x2, y2) in zip(many, _turned(few, shift), strict=False)
    ]
    slope = median(slopes)
    return slope, median(y - slope * x for x, y in points)


def _turned(points: list[tuple[float, float]], shift: int) -> Iterator[tuple[float, float]]:
    """The points again and again, from another third of them on."""
    first = len(points) * shift // _PAIRS
    return cycle(points[first:] + points[:first])


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return float(sum(map(mul, one, other)))


def _biweight(u: float) -> float:
    return (1 - u * u) ** 2 if -1 < u < 1 else 0.0


def _weighted_line(
    xs: Sequence[float], ys: Sequence[float], weights: Sequence[float]
) -> tuple[float, float] | None:
    """Slope and floor by weighted least squares; None where the weights leave one x only."""
    total = sum(weights)
    if total == 0:
        return None
    mean_x = _dot(weights, xs) / total
    mean_y = _dot(weights, ys) / total
    pulls = [w * (x - mean_x) for w, x in zip(weights, xs, strict=True)]
    spread = sum(pull * (x - mean_x) for pull, x in zip(pulls, xs, strict=True))
    if spread == 0:
        return None
    slope = sum(pull * (y - mean_y) for pull, y in zip(pulls, ys, strict=True)) / spread
    return slope, mean_y - slope * mean_x
