"""Decides whether a quantity stayed flat while sessions were played. Pure.

A leak grows with the sessions, so the slope is over their number, not over time. The median of all
pairwise slopes (Theil and Sen) ignores a few unusual readings, for example one taken while a
metrics page was written. This slope times the number of measured sessions is the growth, which has
a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WARM_UP = 0.25
"""The share of the sessions that is the warm-up: allocators and caches fill."""
FEWEST = 8
"""Readings after the warm-up; with fewer there is no verdict."""
_MOST = 400  # readings that pairs are made of: 80,000 slopes


@dataclass(frozen=True, slots=True)
class Bound:
    """How much a quantity may grow from the end of the warm-up to the end."""

    name: str
    unit: str
    most: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """`growth` is the slope over all measured sessions; `first` and `last` are medians of the
    first and the last quarter of the readings.
    """

    bound: Bound
    first: float
    last: float
    growth: float
    readings: int

    @property
    def flat(self) -> bool:
        return self.readings >= FEWEST and self.growth <= self.bound.most


def judged(bound: Bound, readings: Sequence[tuple[int, float]], sessions: int) -> Verdict:
    """`readings` are pairs of the sessions finished so far and the quantity, in order."""
    warm = [(done, value) for done, value in readings if done >= WARM_UP * sessions]
    if len(warm) < FEWEST:
        return Verdict(bound, 0.0, 0.0, 0.0, len(warm))
    quarter = len(warm) // 4
    values = [value for _, value in warm]
    slope = _slope(warm[:: -(-len(warm) // _MOST)])
    return Verdict(
        bound,
        first=median(values[:quarter]),
        last=median(values[-quarter:]),
        growth=slope * (warm[-1][0] - warm[0][0]),
        readings=len(warm),
    )


def _slope(readings: Sequence[tuple[int, float]]) -> float:
    slopes = [
        (later - earlier) / (after - before)
        for (before, earlier), (after, later) in combinations(readings, 2)
        if after > before
    ]
    return median(slopes) if slopes else 0.0
