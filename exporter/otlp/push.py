"""Pushes metrics and sessions to an OpenTelemetry collector, in the background.

Nothing here delays a session or a scrape: sessions wait in a bounded queue, and the door sends on
threads. While the receiver is away, metrics of the past are not kept, and the oldest sessions are
dropped when the queue is full; both are counted.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from exporter.logs import Outage
from exporter.loops import LoopHeartbeat, Periodic, Schedule
from exporter.otlp.records import Queued

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.clock import Clock
    from exporter.config import OtlpSettings
    from exporter.loops import Spawn
    from exporter.metrics.store import Metrics
    from exporter.model.session import SessionResult
    from exporter.otlp.records import Outcome
    from exporter.otlp.sdk.door import OtlpDoor

log = structlog.get_logger(__name__)

MOST_SESSIONS = 512
"""In the queue: half an hour of a fleet of sixteen targets, in 8 MB."""
_AT_A_TIME = 32
"""Sessions in one request: 300 spans."""
_TRACES_SECONDS = 5.0
"""From one look at the queue to the next, as in the SDK's own batch processor."""
_FIRST_SECONDS = 5.0
"""Until the first metrics are sent: by then the first scrapes have ended."""

_Send = Callable[[], Coroutine[Any, Any, None]]


class OtlpPush:
    """Two loops, one for each signal that is on. `session_finished` gets the sessions."""

    def __init__(
        self, settings: OtlpSettings, metrics: Metrics, clock: Clock, *, instance: str
    ) -> None:
        """`instance` names this exporter among others."""
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._door = _door(settings, instance, clock.time())
        self._state = metrics.exporter.otlp
        self._queue: deque[Queued] = deque()
        self._told_of_drops = False
        self._sends: dict[str, _Send] = {}
        if settings.metrics_enabled:
            self._sends["metrics"] = self._send_metrics
        if settings.traces_enabled:
            self._sends["traces"] = self._send_sessions
        self._locks = {signal: asyncio.Lock() for signal in self._sends}
        self._outages = {signal: _outage(signal) for signal in self._sends}
        self._running: dict[str, asyncio.Task[None]] = {}  # the last send of each signal
        for signal in self._sends:
            self._state.on(signal)

    def start(self, spawn: Spawn) -> list[asyncio.Task[None]]:
        """Start the loops of the signals that are on."""
        schedules = {
            "metrics": (
                min(self._settings.interval_seconds, _FIRST_SECONDS),
                self._settings.interval_seconds,
            ),
            "traces": (_TRACES_SECONDS, _TRACES_SECONDS),
        }
        loops = [self._loop(signal, Schedule(*schedules[signal])) for signal in self._sends]
        return [spawn(each.heartbeat, each.run) for each in loops]

    def _loop(self, signal: str, schedule: Schedule) -> Periodic:
        name, send = f"otlp_{signal}", self._sends[signal]

        async def round_(_started: object) -> None:
            # Cancelling the loop does not end the send: `close` waits for it, so that no session
            # is sent twice.
            running = self._running[signal] = asyncio.create_task(send(), name=f"{name}:send")
            await asyncio.shield(running)

        heartbeat = LoopHeartbeat(name, self._metrics.exporter.loops, self._clock)
        return Periodic(heartbeat, round_, schedule)

    def session_finished(self, result: SessionResult) -> None:
        """Queue a session or heartbeat; the oldest is dropped if there are too many."""
        if not self._settings.traces_enabled:
            return
        known = self._metrics.targets.get(result.target)
        url, labels = (None, {}) if known is None else (known.url, known.labels)
        self._queue.append(Queued(result, url, labels, secrets.randbits(128)))
        if len(self._queue) > MOST_SESSIONS:
            self._queue.popleft()
            self._dropped(1, f"the receiver has not taken the last {MOST_SESSIONS} sessions")

    def _dropped(self, sessions: int, why: str) -> None:
        self._state.dropped(sessions)
        if not self._told_of_drops:
            self._told_of_drops = True
            log.warning(
                "otlp.sessions_dropped",
                meaning=f"{why}, so spans are lost. "
                "vllm_exporter_otlp_dropped_sessions_total counts their sessions.",
            )

    async def _send_metrics(self) -> None:
        async with self._locks["metrics"]:
            outcome = await self._door.send_metrics(self._metrics, self._clock.time())
            self._ended("metrics", outcome)

    async def _send_sessions(self) -> None:
        """Send all that is queued, in parts. A part that failed for now stays in the queue."""
        async with self._locks["traces"]:
            while self._queue:
                part = [self._queue[place] for place in range(min(_AT_A_TIME, len(self._queue)))]
                outcome = await self._door.send_sessions(part)
                self._ended("traces", outcome)
                if outcome.reason and not outcome.lasting:
                    return
                sent = self._take(part)
                if outcome.lasting:
                    self._dropped(sent, f"{outcome.detail} to the spans of {sent} sessions")
                else:
                    self._told_of_drops = False

    def _take(self, part: Sequence[Queued]) -> int:
        """Remove these from the queue, and return how many were still in it."""
        taken = 0
        for each in part:
            if self._queue and self._queue[0] is each:
                self._queue.popleft()
                taken += 1
        return taken

    def _ended(self, signal: str, outcome: Outcome) -> None:
        self._state.exported(signal, failed=bool(outcome.reason))
        now, outage = self._clock.monotonic(), self._outages[signal]
        if outcome.reason:
            outage.failed(now, outcome.reason, outcome.detail)
        else:
            outage.ended(now)

    async def close(self, grace_seconds: float) -> None:
        """Send what is known and queued, within the grace period. Call it after the loops ended."""
        tasks = [*self._running.values()]  # first in the locks
        tasks += [asyncio.create_task(send(), name="otlp:flush") for send in self._sends.values()]
        _, late = await asyncio.wait(tasks, timeout=grace_seconds)
        self._door.close()
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if late:
            log.warning("otlp.flush_incomplete", sessions=len(self._queue))


def _outage(signal: str) -> Outage:
    return Outage(log.bind(signal=signal), failed="otlp.export_failed", recovered="otlp.recovered")


def _door(settings: OtlpSettings, instance: str, started_time: float) -> OtlpDoor:
    # The SDK is there only with the extra `otlp`, and takes memory.
    from exporter.otlp.sdk.door import OtlpDoor  # noqa: PLC0415 - only where it is asked for

    return OtlpDoor(settings, os.environ, instance=instance, started_time=started_time)
