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

from exporter.analysis.hits.routing import possible_replicas, replica_of
from exporter.analysis.own_share import OwnShare
from exporter.engine.metrics.scrape_reasons import ScrapeReason

if TYPE_CHECKING:
    from exporter.clock import Clock
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView, PartKey

Observe = Callable[[], Awaitable["EngineView | None"]]
"""Reads the engine's own metrics now; None if nothing could be read."""


Sent = tuple["Chat", OwnShare]
"""An answer, and what its request adds to the exporter's own share."""


COUNTED_READINGS = 22
BETWEEN_READINGS_SECONDS = 0.05
"""vLLM counts a step after it has sent the step's tokens, so a stream may end before its tokens are
counted. Readings are repeated for a little more than a second."""
READINGS = 5
"""More readings if one proves nothing. Five of two replicas in turn are all of one in 1 of 32."""
_SEEN = "more than one process answered at this URL within the last ten minutes"
_OLDER = "a process answered that had started before the one that answered first"


class Placement:
    """Finds the replica that computed each of the exporter's own requests.

    `shares` are the exporter's own shares of the replicas' counters. `unplaced` counts the requests
    whose replica is unknown. Nothing is read while `active` is False.
    """

    def __init__(self, observe: Observe, clock: Clock) -> None:
        self._observe = observe
        self._clock = clock
        self._shares: dict[PartKey, OwnShare] = {}
        self._begun = 0
        self._running = 0
        self._unplaced = 0
        self.active = False

    def share(self, key: PartKey) -> OwnShare:
        """The exporter's own share of one replica. What may be in it counts as `unknown`."""
        return self._shares.get(key, OwnShare()).plus(OwnShare(unknown=self._unplaced))

    async def placed(self, send: Callable[[], Awaitable[Sent]]) -> Chat:
        """Send a request, and note the replica that computed it."""
        if not self.active:
            return (await send())[0]
        self._begun += 1
        self._running += 1
        begun, alone, key = self._begun, self._running == 1, None
        counted = OwnShare(unknown=1)
        try:
            before = await self._read()
            chat, counted = await send()
            if alone and chat.usage is not None and before is not None:
                key = await self._replica(before, chat.usage)
            if self._begun != begun:
                key = None  # another request of the exporter ran at the same time
        finally:
            self._running -= 1
            self._add(key, counted)
        return replace(chat, replica=key)

    def _add(self, key: PartKey | None, counted: OwnShare) -> None:
        if key is not None:
            self._shares[key] = self._shares.get(key, OwnShare()).plus(counted)
        elif counted.requests or counted.unknown:
            self._unplaced += 1

    async def _replica(self, before: EngineSnapshot, usage: Usage) -> PartKey | None:
        """The replica whose counters grew by this request, once one of them includes it."""
        for attempt in range(COUNTED_READINGS):
            if attempt:
                await self._clock.sleep(BETWEEN_READINGS_SECONDS)
            after = await self._read()
            if after is None:
                return None
            if possible_replicas(before, after, usage):
                return replica_of(before, after, usage)
        return None

    async def _read(self) -> EngineSnapshot | None:
        view = await self._observe()
        return view.snapshot if view else None


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
        if view.snapshot and len(view.snapshot.parts) > 1 and not view.snapshot.own_pages:
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
    if now.own_pages:
        return False
    return now.process_start_time is None or now.process_start_time != before
