"""The loop that asks one source for its targets, and tells whoever measures them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import structlog

from exporter.discovery.decide.records import DiscoveryError, DiscoveryFailure, LeftOut
from exporter.errors import ExporterError
from exporter.loops import Guarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from exporter.clock import Clock
    from exporter.config import Target
    from exporter.discovery.decide.discovered_targets import DiscoveredTargets
    from exporter.discovery.decide.records import DiscoveryResult, Source
    from exporter.metrics.sink import Metrics

log = structlog.get_logger(__name__)


class DiscoveryLoop:
    """Looks every `refresh_seconds`. A look that fails leaves the targets as they are.

    `deliver` is given all targets of the source whenever they have changed. Where it raises
    `ExporterError` it cannot take them, and is given them again at the next look.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        found: DiscoveredTargets[Target],
        *,
        refresh_seconds: float,
        clock: Clock,
        metrics: Metrics,
        deliver: Callable[[tuple[Target, ...]], Awaitable[object]],
    ) -> None:
        self._name = name
        self._source = source
        self._found = found
        self._refresh = refresh_seconds
        self._clock = clock
        self._metrics = metrics
        self._deliver = deliver
        self._delivered: tuple[Target, ...] | None = None
        self._log = log.bind(source=name)
        self._failing_since: float | None = None
        self._told_reasons = set[DiscoveryFailure]()
        self._told_mistakes: Mapping[str, str] = {}
        self._told_empty = self._told_limit = False

    async def run(self) -> None:
        """Look until cancelled. A mistake of ours in one round is logged and counted."""
        loop = f"discovery:{self._name}"
        try:
            while True:
                began = self._clock.monotonic()
                with Guarded(
                    "discovery.round_failed", partial(self._metrics.loop_failed, loop), self._log
                ):
                    await self.once()
                self._metrics.loop_ran(loop, self._clock.time())
                took = self._clock.monotonic() - began
                # Never at once again: what takes longer than its interval is not hurried.
                await self._clock.sleep(max(self._refresh - took, self._refresh / 10))
        finally:
            await self._source.close()

    async def once(self) -> None:
        """Look, and deliver what has changed."""
        try:
            look = await self._source.look()
        except DiscoveryError as error:
            self._failed(error.reason, error.detail)
            return
        targets = self._found.answered(look.targets, self._clock.monotonic(), look.still)
        if targets != self._delivered:
            try:
                await self._deliver(targets)
            except ExporterError as error:
                self._failed(DiscoveryFailure.REFUSED, str(error))
                return
            self._delivered = targets
        self._answered(look, targets)

    def _failed(self, reason: DiscoveryFailure, detail: str) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock.monotonic()
        if reason not in self._told_reasons:
            self._told_reasons.add(reason)
            kept = len(self._delivered or ())
            self._log.warning("discovery.failed", reason=str(reason), detail=detail, kept=kept)
        self._metrics.discovery_failed(self._name, reason)

    def _answered(self, look: DiscoveryResult, targets: tuple[Target, ...]) -> None:
        if self._failing_since is not None:
            after = round(self._clock.monotonic() - self._failing_since, 3)
            self._log.info("discovery.recovered", after_seconds=after)
        self._failing_since = None
        self._told_reasons.clear()
        for name, why in look.mistakes.items():
            if self._told_mistakes.get(name) != why:
                self._log.warning("discovery.left_out", container=name, mistake=why)
        self._told_mistakes = look.mistakes
        above = self._found.above_limit
        if above and not self._told_limit:
            self._log.warning(
                "discovery.above_limit", left_out=above, setting="discovery.max_targets"
            )
        empty = not look.targets
        if empty and not self._told_empty:
            self._log.warning("discovery.nothing_found", still_measured=len(targets))
        self._told_limit, self._told_empty = bool(above), empty
        self._metrics.discovery_answered(
            self._name,
            targets=len(targets),
            left_out={LeftOut.LIMIT: above, LeftOut.MISTAKE: len(look.mistakes)},
            time=self._clock.time(),
        )
