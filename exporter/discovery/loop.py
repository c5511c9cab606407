"""The loop that queries one source and delivers its targets when they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure, LeftOut
from exporter.errors import ExporterError
from exporter.logs import Outage
from exporter.loops import Periodic, Schedule

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from exporter.config import Target
    from exporter.discovery.sink import DiscoverySink
    from exporter.discovery.targets.discovered_targets import DiscoveredTargets
    from exporter.discovery.targets.records import DiscoveryResult, Source
    from exporter.loops import LoopHeartbeat

log = structlog.get_logger(__name__)


class DiscoveryLoop:
    """Queries the source every `refresh_seconds`. A failed query leaves the targets as they are.

    `finds` is what the source finds: the key in log lines about one of them.
    `deliver` gets all targets of the source whenever they change. If it raises `ExporterError`,
    the loop delivers them again after the next query.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        found: DiscoveredTargets[Target],
        *,
        refresh_seconds: float,
        sink: DiscoverySink,
        heartbeat: LoopHeartbeat,
        deliver: Callable[[tuple[Target, ...]], Awaitable[object]],
        finds: str = "container",
    ) -> None:
        self._name = name
        self._finds = finds
        self._source = source
        self._found = found
        self._clock = heartbeat.clock
        self._sink = sink
        schedule = Schedule(0.0, refresh_seconds)
        self._loop = Periodic(heartbeat, lambda _started: self.once(), schedule)
        self._deliver = deliver
        self._delivered: tuple[Target, ...] | None = None
        self._log = log.bind(source=name)
        self._outage = Outage(self._log, failed="discovery.failed", recovered="discovery.recovered")
        self._logged_mistakes: Mapping[str, str] = {}
        self._logged_empty = self._logged_limit = False

    async def run(self) -> None:
        """Query until cancelled. An unexpected exception ends one round and is counted."""
        try:
            await self._loop.run()
        finally:
            await self._source.close()

    async def once(self) -> None:
        """Query once, and deliver the targets if they changed."""
        try:
            result = await self._source.query()
        except DiscoveryError as error:
            self._failed(error.reason, error.detail)
            return
        targets = self._found.update(result.targets, self._clock.monotonic(), result.unreachable)
        if targets != self._delivered:
            try:
                await self._deliver(targets)
            except ExporterError as error:
                self._failed(DiscoveryFailure.REFUSED, str(error))
                return
            self._delivered = targets
        self._succeeded(result, targets)

    def _failed(self, reason: DiscoveryFailure, detail: str) -> None:
        kept = len(self._delivered or ())
        self._outage.failed(self._clock.monotonic(), reason, detail, kept=kept)
        self._sink.source_failed(self._name, reason)

    def _succeeded(self, result: DiscoveryResult, targets: tuple[Target, ...]) -> None:
        self._outage.ended(self._clock.monotonic())
        for name, mistake in result.mistakes.items():
            if self._logged_mistakes.get(name) != mistake:
                self._log.warning("discovery.left_out", **{self._finds: name}, mistake=mistake)
        self._logged_mistakes = result.mistakes
        above = self._found.above_limit
        if above and not self._logged_limit:
            self._log.warning(
                "discovery.above_limit", left_out=above, setting="discovery.max_targets"
            )
        empty = not result.targets
        if empty and not self._logged_empty:
            self._log.warning("discovery.nothing_found", still_measured=len(targets))
        self._logged_limit, self._logged_empty = bool(above), empty
        self._sink.source_answered(
            self._name,
            targets=len(targets),
            left_out={LeftOut.LIMIT: above, LeftOut.MISTAKE: len(result.mistakes)},
            time=self._clock.time(),
        )
