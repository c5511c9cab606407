"""Statistics of paired differences: exact for few pairs, without an assumed distribution.

Each difference is within one round of an interleaved comparison, so it does not contain what
changes from round to round. The estimate is Hodges and Lehmann's: the median of the means of all
pairs of differences, each difference also paired with itself. The interval and the test are those
of Wilcoxon's signed-rank test, by its exact distribution (Hollander, Wolfe and Chicken,
Nonparametric Statistical Methods, chapter 3). At least six pairs are needed for a significant
difference at 5 %: with five, all have the same sign by chance once in sixteen times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
LEAST_PAIRS = 6
ENOUGH_PAIRS = 12
"""So many show a difference at 5 % although one of them went the other way, however far."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the quartiles of `count` values."""

    median: float
    lower_quartile: float
    upper_quartile: float
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The result of `pairs` paired differences, with the two-sided `p` of the signed-rank test.

    The interval covers at least `CONFIDENCE`. It and `p` are None below `LEAST_PAIRS` pairs.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int


def spread(values: Sequence[float]) -> Spread | None:
    """None without a value."""
    if not values:
        return None
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    lower, middle, upper = quantiles(values, n=4, method="inclusive")
    return Spread(middle, lower, upper, len(values))


def difference(differences: Sequence[float]) -> Difference | None:
    """None without a difference."""
    pairs = len(differences)
    if not pairs:
        return None
    means = sorted(
        (one + other) / 2 for place, one in enumerate(differences) for other in differences[place:]
    )
    if pairs < LEAST_PAIRS:
        return Difference(median(means), None, None, None, pairs)
    left_out = _left_out(pairs)
    return Difference(
        estimate=median(means),
        low=means[left_out],
        high=means[-1 - left_out],
        p=signed_rank_p(differences),
        pairs=pairs,
    )


def signed_rank_p(differences: Sequence[float]) -> float:
    """The exact two-sided p of Wilcoxon's signed-rank test; 1 if all differences are zero.

    Zeros are left out, ties share ranks.
    """
    sizes = sorted(abs(each) for each in differences if each)
    if not sizes:
        return 1.0
    ranks = {size: _doubled_rank(sizes, size) for size in set(sizes)}
    positive = sum(ranks[each] for each in differences if each > 0)
    negative = sum(ranks[-each] for each in differences if each < 0)
    ways = _ways([ranks[size] for size in sizes])
    as_far = sum(ways[: min(positive, negative) + 1])
    return min(1.0, as_far / float(2 ** (len(sizes) - 1)))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Several p values, adjusted for multiple tests with Holm's method (Holm, 1979)."""
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    floor = 0.0
    for done, (p, place) in enumerate(known):
        floor = max(floor, min(1.0, p * (len(known) - done)))
        adjusted[place] = floor
    return adjusted


def ecdf(values: Sequence[float]) -> list[tuple[float, float]]:
    """The empirical distribution: each value, ascending, and the share of values up to it."""
    ordered = sorted(values)
    steps = [(value, place / len(ordered)) for place, value in enumerate(ordered, start=1)]
    return [step for step, later in pairwise([*steps, (float("inf"), 1.0)]) if step[0] != later[0]]


def _left_out(pairs: int) -> int:
    """The number of sorted means that the interval leaves out at each end."""
    ways = _ways(range(1, pairs + 1))
    allowed = (1 - CONFIDENCE) / 2 * 2**pairs
    below, left_out = 0, 0
    for each in ways:
        below += each
        if below > allowed:
            break
        left_out += 1
    return max(0, left_out - 1)


def _ways(ranks: Sequence[int]) -> list[int]:
    """The number of sign choices for which the positive ranks add up to 0, 1, 2…"""
    ways = [1]
    for rank in ranks:
        longer = [*ways, *[0] * rank]
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    return ways


def _doubled_rank(ordered: Sequence[float], size: float) -> int:
    """Twice the mean of the ranks (1…) that equal sizes share, which is a whole number."""
    first = ordered.index(size) + 1
    return 2 * first + ordered.count(size) - 1
