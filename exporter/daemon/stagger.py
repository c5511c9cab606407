"""Spreads the rounds of many targets over an interval."""

from __future__ import annotations

from heapq import heapify, heapreplace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def spread(count: int, interval: float) -> list[float]:
    """First delays of `count` targets that start together."""
    return [interval * place / count for place in range(count)]


def among(due: Sequence[float], count: int, interval: float) -> list[float]:
    """Delays from 0 to below `interval` for `count` new targets, in rising order.

    `due` holds the seconds until the next round of each running target. New targets go into the
    widest gaps between these; several in one gap divide it evenly.
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
