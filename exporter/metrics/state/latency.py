"""Histograms of times, with vLLM's own bounds. Pure."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.engine import Histogram
    from exporter.model.session import TurnFacts

# From vllm/v1/metrics/buckets.py without the last two, so that a quantile of the probe and one of
# vllm:time_to_first_token_seconds have the same resolution.
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
# The same for inter-token latency up to 10 s, with finer bounds at the start, because a small model
# decodes faster than 10 ms per token.
INTER_TOKEN_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)

CacheTemperature = Literal["cold", "warm", "unknown"]


class Distribution:
    """A histogram with fixed upper bounds. A value equal to a bound counts in that bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    @classmethod
    def of(cls, histogram: Histogram) -> Distribution:
        """One that an engine has counted."""
        made = cls(histogram.bounds)
        counts = [0, *map(round, histogram.counts)]
        made._counts = [now - before for before, now in pairwise(counts)]
        made.sum = histogram.sum
        return made

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def counts(self) -> tuple[int, ...]:
        """Observations in each bucket; the last one is above all bounds."""
        return tuple(self._counts)

    def cumulative(self) -> list[int]:
        """Observations up to each bound; the last number is of all observations."""
        return list(accumulate(self._counts))


def temperature(turn: TurnFacts) -> CacheTemperature:
    if turn.cached_tokens is None:
        return "unknown"
    return "warm" if turn.cached_tokens > 0 else "cold"
