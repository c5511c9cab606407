"""Where in an interval each target has its turn, so that many do not go all at once."""

from __future__ import annotations

from heapq import heapify, heapreplace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread(count: int, interval: float) -> list[float]:
    """Delays of the first round of each of `count` targets that start together."""
    return [interval * place / count for place in range(count)]


def among(due: Sequence[float], count: int, interval: float) -> list[float]:
    """Delays, each from 0 to below `interval`, of `count` that join others; in rising order.

    `due` says in how many seconds each of the others has its next turn. Whoever joins goes into
    the widest gap between them; where several share a gap they divide it evenly.
    """
    if not due:
        return spread(count, interval)
    taken = sorted({seconds % interval for seconds in due})
    starts = [*taken, taken[0] + interval]
    gaps = [(-(end - start), 0, start, end - start) for start, end in pairwise(starts)]
    heapify(gaps)
    for _ in range(count):
        _, held, start, width = gaps[0]
        heapreplace(gaps, (-width / (held + 2), held + 1, start, width))
    return sorted(
        (start + width * place / (held + 1)) % interval
        for _, held, start, width in gaps
        for place in range(1, held + 1)
    )
