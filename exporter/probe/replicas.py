"""Detects whether one engine answers at a URL, or several in turn, by their own metrics.

A restarted process starts later than the one before, and the old one never returns. So a start time
that goes back proves several engines. Without start times, counters that fall and rise again prove
it; the scraper's views report both (`EngineView.mixed`). A router's page shows several engines at
once, under labels that vLLM does not have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.engine.metrics.scrape_reasons import ScrapeReason

if TYPE_CHECKING:
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView

Observe = Callable[[], Awaitable["EngineView | None"]]
"""Reads the engine's own metrics now; None if nothing could be read."""


READINGS = 5
"""More readings if one proves nothing. Five of two replicas in turn are all of one in 1 of 32."""
_SEEN = "more than one process answered at this URL within the last ten minutes"
_OLDER = "a process answered that had started before the one that answered first"


class ReplicaDetector:
    """Reads the engine during one session. `proof` says how several engines are known, if they
    are.
    """

    def __init__(self, observe: Observe) -> None:
        self._observe = observe
        self._start_time: float | None = None
        self.proof: str | None = None

    async def first(self) -> EngineView | None:
        """The first reading. If another engine's page was refused, it reads a few times more."""
        view = await self._read()
        for _ in range(READINGS):
            if not _refused(view):
                break
            view = await self._read()
        return view

    async def next(self) -> EngineView | None:
        """A new reading, followed by more if it may be another engine's."""
        before = self._start_time
        view = await self._read()
        if view is not None and view.snapshot is not None and _may_differ(before, view.snapshot):
            for _ in range(READINGS):
                if self.proof is not None:
                    break
                await self._read()
        return view

    async def _read(self) -> EngineView | None:
        view = await self._observe()
        if view is None:
            return None
        start = view.snapshot.process_start_time if view.snapshot else None
        if view.snapshot and len(view.snapshot.parts) > 1:
            self.proof = self.proof or _on_one_page(view.snapshot)
        elif view.mixed or _refused(view):
            self.proof = self.proof or _SEEN
        elif start is not None and self._start_time is not None and start < self._start_time:
            self.proof = self.proof or _OLDER
        if start is not None:
            self._start_time = start
        return view


def own_info(info: EngineInfo, view: EngineView | None) -> EngineInfo:
    """The engine's info. A router answers /version for itself, so the version is unknown then."""
    relayed = bool(view and view.snapshot and view.snapshot.parts)
    return replace(info, version=None) if relayed else info


def _on_one_page(snapshot: EngineSnapshot) -> str:
    labels = " and ".join(snapshot.engine_labels)
    return (
        f"/metrics has the series of {len(snapshot.parts)} engines, told apart by the label "
        f"{labels}: a router answers at this URL, or several engines do"
    )


def _refused(view: EngineView | None) -> bool:
    """Whether the scraper refused the page as another engine's."""
    failure = view.failure if view else None
    return failure is not None and failure.reason == ScrapeReason.SEVERAL_ENGINES


def _may_differ(before: float | None, now: EngineSnapshot) -> bool:
    """Whether this reading may be another engine's than the one before it."""
    return now.process_start_time is None or now.process_start_time != before
