"""What a prompt token costs in prefill: the line of TTFT over uncached tokens. Pure.

    TTFT = floor + slope * (prompt tokens - cached tokens)

The slope is the prefill seconds per token of this server under its present load, the floor is what
every request pays: network, queue, one step.

A request that takes ten times as long varies about ten times as much, so the residuals are taken
relative to the line; taken in seconds, the short warm requests would make outliers of all cold
ones. The fit is an MM-style one: it starts from the median of the slopes between pairs of points,
each pair weighted by its distance in tokens (Jaeckel, 1972, after Theil and Sen), which a minority
of wild points cannot move, fixes the scale by the median absolute residual, and weighs the points
by Tukey's biweight. The standard error is the sandwich one of such an estimate, with each residual
divided by one minus its leverage (HC3; MacKinnon and White, 1985): the few cold points then count
as few, whatever the many warm ones look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from operator import mul
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.model import TurnFacts

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
_ITERATIONS = 50
_SETTLED = 1e-12  # seconds per token


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
    slope, floor = fit.solve()
    kept = fit.kept(slope, floor)
    if len(kept) < _LEAST_POINTS or not _spread(kept):
        return None
    error = fit.error(slope, floor)
    if slope <= 0 or slope < _LEAST_RATIO * error:
        return None
    return PrefillCost(slope, error, floor, len(points))


def _spread(xs: Sequence[float]) -> bool:
    middle = (min(xs) + max(xs)) / 2
    below = sum(x < middle for x in xs)
    above = sum(x > middle for x in xs)
    return min(below, above) >= _LEAST_PER_HALF


class _Fit:
    """The points of one fit, not all at one x, and the scale of their relative residuals."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._xs = [float(point.uncached_tokens) for point in points]
        self._ys = [point.ttft_seconds for point in points]
        self._least = max(median(self._ys) * _LEAST_OF_MEDIAN, _SMALLEST_SCALE)
        self._cut = 1.0

    def solve(self) -> tuple[float, float]:
        """Slope and floor."""
        slope = _median_slope(self._xs, self._ys)
        floor = median(y - slope * x for x, y in zip(self._xs, self._ys, strict=True))
        deviation = _MAD_TO_DEVIATION * median(map(abs, self._residuals(slope, floor)))
        self._cut = _BIWEIGHT * max(deviation, _SMALLEST_SCALE)
        for _ in range(_ITERATIONS):
            residuals = self._residuals(slope, floor)
            weights = [
                _biweight(residual / self._cut) * precision
                for residual, precision in zip(
                    residuals, self._precisions(slope, floor), strict=True
                )
            ]
            line = _weighted_line(self._xs, self._ys, weights)
            if line is None:
                break
            moved, (slope, floor) = abs(line[0] - slope), line
            if moved < _SETTLED:
                break
        return slope, floor

    def kept(self, slope: float, floor: float) -> list[float]:
        """The uncached tokens of the points that the biweight does not cut off."""
        return [
            x
            for x, residual in zip(self._xs, self._residuals(slope, floor), strict=True)
            if abs(residual) < self._cut
        ]

    def error(self, slope: float, floor: float) -> float:
        """The standard error of the slope; infinite where the points do not determine one."""
        precisions = self._precisions(slope, floor)
        total = sum(precisions)
        mean_x = _dot(precisions, self._xs) / total
        spread = sum(p * (x - mean_x) ** 2 for p, x in zip(precisions, self._xs, strict=True))
        scaled = [residual / self._cut for residual in self._residuals(slope, floor)]
        steepness = fmean((1 - u * u) * (1 - 5 * u * u) if abs(u) < 1 else 0.0 for u in scaled)
        if steepness <= 0:
            return inf
        variance = 0.0
        for x, precision, u in zip(self._xs, precisions, scaled, strict=True):
            leverage = precision * (1 / total + (x - mean_x) ** 2 / spread)
            if leverage >= 1:
                return inf
            psi = self._cut * u * _biweight(u) / (1 - leverage)
            variance += precision * (x - mean_x) ** 2 * psi**2
        return sqrt(variance) / spread / steepness

    def _line(self, slope: float, floor: float) -> list[float]:
        return [max(floor + slope * x, self._least) for x in self._xs]

    def _residuals(self, slope: float, floor: float) -> list[float]:
        line = self._line(slope, floor)
        return [
            (y - floor - slope * x) / on_line
            for x, y, on_line in zip(self._xs, self._ys, line, strict=True)
        ]

    def _precisions(self, slope: float, floor: float) -> list[float]:
        return [1 / on_line**2 for on_line in self._line(slope, floor)]


def _median_slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The weighted median of the slopes between pairs, by their distance in x."""
    slopes = sorted(
        ((y2 - y1) / (x2 - x1), abs(x2 - x1))
        for place, (x1, y1) in enumerate(zip(xs, ys, strict=True))
        for x2, y2 in zip(xs[place + 1 :], ys[place + 1 :], strict=True)
        if x1 != x2
    )
    half = sum(weight for _, weight in slopes) / 2
    passed = 0.0
    for slope, weight in slopes:
        passed += weight
        if passed >= half:
            return slope
    return slopes[-1][0]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return float(sum(map(mul, one, other)))


def _biweight(u: float) -> float:
    return (1 - u * u) ** 2 if abs(u) < 1 else 0.0


def _weighted_line(
    xs: Sequence[float], ys: Sequence[float], weights: Sequence[float]
) -> tuple[float, float] | None:
    """Slope and floor by weighted least squares; None where the weights leave one x only."""
    total = sum(weights)
    if total == 0:
        return None
    mean_x = _dot(weights, xs) / total
    mean_y = _dot(weights, ys) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, xs, strict=True))
    if spread == 0:
        return None
    slope = (
        sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, xs, ys, strict=True))
        / spread
    )
    return slope, mean_y - slope * mean_x
