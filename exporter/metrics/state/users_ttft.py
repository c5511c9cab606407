"""The users' times to first token: what the engine counted while the exporter sent nothing. Pure.

The engine's histogram has the exporter's own requests too, and not which bucket each is in. So only
its growth between two scrapes counts if no request of the exporter ran in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.engine.metrics.names import TTFT
from exporter.model.engine import Histogram

if TYPE_CHECKING:
    from exporter.analysis.own_share import OwnShare
    from exporter.model.engine import EngineView


@dataclass(frozen=True, slots=True)
class _Mark:
    """A scrape at which no own request ran. `own_ended_at` is when the last one had ended."""

    seen: Histogram
    own_ended_at: float | None


@dataclass(slots=True)
class UsersTtft:
    """One target. `total` is None until the engine's histogram is first seen, and never falls."""

    total: Histogram | None = None
    _mark: _Mark | None = None

    def engine_scraped(self, view: EngineView, own: OwnShare, *, known: bool) -> None:
        """Add a scrape. `known`: the counters are those of the one engine that answers."""
        snapshot = view.snapshot
        if snapshot is None:
            return
        seen = view.histograms.get(TTFT)
        if not known or seen is None:
            self._mark = None
            return
        if not own.quiet(snapshot.at - snapshot.scrape_seconds):
            return
        before, self._mark = self._mark, _Mark(seen, own.last_ended_at)
        if self.total is None or self.total.bounds != seen.bounds:
            self.total = Histogram(seen.bounds, (0.0,) * len(seen.counts), 0.0)
        elif before is not None and before.own_ended_at == own.last_ended_at:
            self.total = _plus_growth(self.total, before.seen, seen)


def _plus_growth(total: Histogram, before: Histogram, now: Histogram) -> Histogram:
    if before.bounds != now.bounds:
        return total
    grown = zip(total.counts, now.counts, before.counts, strict=True)
    counts = tuple(sum_ + (new - old) for sum_, new, old in grown)
    return Histogram(total.bounds, counts, total.sum + (now.sum - before.sum))
