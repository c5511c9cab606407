"""The loop that everything on a schedule runs in: sessions, retention, isolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from exporter.loops import Guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.loops import LoopHeartbeat

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When rounds begin, in seconds, from start to start.

    `jitter` gives a factor around 1 for each wait, so that several exporters do not fall into
    step. A round that takes longer than the interval is followed by the next after a tenth of it.
    """

    first_delay_seconds: float
    interval_seconds: float
    jitter: Callable[[], float] = lambda: 1.0


class Once(Protocol):
    """One round. It calls `begun` when it was let in, if it had to wait: the interval counts from
    there, and without the call from where the round was asked for.
    """

    async def __call__(self, begun: Callable[[], None], /) -> None: ...


class Rounds:
    """Runs one thing again and again, for as long as the daemon lives."""

    def __init__(
        self,
        name: str,
        target: str,
        once: Once,
        *,
        schedule: Schedule,
        clock: Clock,
        heartbeat: LoopHeartbeat,
    ) -> None:
        self._log = log.bind(target=target)
        self._failed_event = f"{name}.round_failed"
        self._once = once
        self._schedule = schedule
        self._clock = clock
        self._heartbeat = heartbeat
        self._began = 0.0
        self._due_at: float | None = None

    @property
    def due_at(self) -> float | None:
        """When the next round is due, in monotonic seconds, jitter apart; None before it runs."""
        return self._due_at

    async def run(self) -> None:
        """Loop until cancelled. A mistake of ours in one round is logged and counted."""
        self._due_at = self._clock.monotonic() + self._schedule.first_delay_seconds
        await self._clock.sleep(self._schedule.first_delay_seconds)
        while True:
            self._begun()
            with Guarded(self._failed_event, self._heartbeat.failed, self._log):
                await self._once(self._begun)
            self._heartbeat.ran()
            await self._clock.sleep(self._wait(self._clock.monotonic() - self._began))

    def _begun(self) -> None:
        self._began = self._clock.monotonic()
        self._due_at = self._began + self._schedule.interval_seconds

    def _wait(self, took: float) -> float:
        interval = self._schedule.interval_seconds
        return max(interval * self._schedule.jitter() - took, interval / 10)
