"""Whether one engine answers at a URL, or several in turn: told by their own readings.

A process that was restarted has started later than the one before, and the one before never comes
back. So several are told by a start time that goes back, or, where they do not say when they
started, by counters that fall and rise again; the scraper's views tell both (`EngineView.mixed`).
A router's page shows several at once, under labels that vLLM does not have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.engine.metrics.scrape_reasons import ScrapeReason

if TYPE_CHECKING:
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView

Observe = Callable[[], Awaitable["EngineView | None"]]
"""Reads the engine's own metrics."""


LOOKS = 5
"""More readings where one leaves it open: with two replicas in turn, one in 32 tells nothing."""
_SEEN = "more than one process answered at this URL within the last ten minutes"
_OLDER = "a process answered that had started before the one that answered first"


class ReplicaDetector:
    """Follows one session's readings. `proof` says how several engines are known, None if not."""

    def __init__(self, observe: Observe) -> None:
        self._observe = observe
        self._start_time: float | None = None
        self.proof: str | None = None

    async def first(self) -> EngineView | None:
        """A reading to begin with: one that could be read, if several engines answer in turn."""
        view = await self._look()
        for _ in range(LOOKS):
            if not _refused(view):
                break
            view = await self._look()
        return view

    async def next(self) -> EngineView | None:
        """A reading, followed by some more where it may be another engine's."""
        before = self._start_time
        view = await self._look()
        if view is not None and view.snapshot is not None and _open(before, view.snapshot):
            for _ in range(LOOKS):
                if self.proof is not None:
                    break
                await self._look()
        return view

    async def _look(self) -> EngineView | None:
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
    """What an engine says of itself; a router answers /version for itself, so that is unknown."""
    relayed = bool(view and view.snapshot and view.snapshot.parts)
    return replace(info, version=None) if relayed else info


def _on_one_page(snapshot: EngineSnapshot) -> str:
    labels = " and ".join(snapshot.told_apart_by)
    return (
        f"/metrics has the series of {len(snapshot.parts)} engines, told apart by the label "
        f"{labels}: a router answers at this URL, or several engines do"
    )


def _refused(view: EngineView | None) -> bool:
    """Whether the reading was another engine's than the one that is followed."""
    failure = view.failure if view else None
    return failure is not None and failure.reason == ScrapeReason.SEVERAL_ENGINES


def _open(before: float | None, now: EngineSnapshot) -> bool:
    """Whether this reading may be of another engine than the one before it."""
    return now.process_start_time is None or now.process_start_time != before
