"""The engine's own histograms: times to first token, and how long blocks stay in the KV cache.

They are read only on an engine's own page, and added up over its restarts as other counters are.
vLLM has those of blocks since 0.12 with --kv-cache-metrics, for a sample of the blocks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.engine.metrics import names
from exporter.model.engine import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.samples import Sample

_MOST_BOUNDS = 100
_NO_BOUND = math.inf


def histograms_of(by_name: Mapping[str, Sequence[Sample]], ranks: int) -> Mapping[str, Histogram]:
    """The histograms on an engine's page, added up over its ranks."""
    found = {
        key: _histogram(by_name.get(f"{name}_bucket", ()), by_name.get(f"{name}_sum", ()), ranks)
        for key, name in names.HISTOGRAMS.items()
    }
    return {key: each for key, each in found.items() if each is not None}


def _histogram(buckets: Iterable[Sample], sums: Sequence[Sample], ranks: int) -> Histogram | None:
    """None if it is not there, or if not every rank has each bound once."""
    counts: dict[float, list[float]] = defaultdict(list)
    try:
        for sample in buckets:
            counts[float(sample.labels.get("le", ""))].append(float(sample.value))
        total = sum(float(sample.value) for sample in sums)
    except (ValueError, OverflowError):  # a number beyond all floats
        return None
    bounds = sorted(counts)
    values = [sum(counts[bound]) for bound in bounds]
    whole = all(len(each) == ranks for each in counts.values()) and len(sums) == ranks
    if not whole or bounds[-1:] != [_NO_BOUND] or len(bounds) > _MOST_BOUNDS:
        return None
    finite = all(math.isfinite(number) and number >= 0 for number in (*values, total))
    if not finite or values != sorted(values):
        return None
    return Histogram(tuple(bounds[:-1]), tuple(values), total)


@dataclass(frozen=True, slots=True)
class CarriedHistogram:
    """One histogram over the engine's restarts. `last` is that of the running process, if known."""

    total: Histogram
    last: Histogram | None

    def after(self, now: Histogram | None, *, from_zero: bool) -> CarriedHistogram:
        """With the next value. `from_zero`: the process is new.

        A process with other bounds begins a new total, because the old counts do not fit them.
        """
        last = None if from_zero else self.last
        if now is None:
            return replace(self, last=last)
        if now.bounds != self.total.bounds:
            return CarriedHistogram(now, now)
        if last is None or now.counts[-1] < last.counts[-1]:
            last = Histogram(now.bounds, (0.0,) * len(now.counts), 0.0)
        grown = zip(self.total.counts, now.counts, last.counts, strict=True)
        counts = tuple(before + (new - old) for before, new, old in grown)
        return CarriedHistogram(
            Histogram(now.bounds, counts, self.total.sum + (now.sum - last.sum)), now
        )


def carry_histograms(
    before: Mapping[str, CarriedHistogram], now: Mapping[str, Histogram], *, from_zero: bool
) -> Mapping[str, CarriedHistogram]:
    """All histograms with one more page. The totals begin with the values of the first page."""
    carried = {key: one.after(now.get(key), from_zero=from_zero) for key, one in before.items()}
    new = {key: CarriedHistogram(one, one) for key, one in now.items() if key not in before}
    return {**carried, **new}
