"""Keeps the daemon's loops alive: an unexpected exception ends one round, not the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from types import TracebackType

    from exporter.clock import Clock

RESTART_SECONDS = 5.0
"""Pause before a loop that failed outside its rounds starts again."""

log = structlog.get_logger(__name__)


class LoopSink(Protocol):
    """Counts what loops do. A loop has the name of its task, such as `scrape:TARGET`."""

    def ran(self, loop: str, time: float) -> None:
        """A round of the loop ended at the Unix time `time`, with success or not."""

    def failed(self, loop: str) -> None:
        """A round of the loop ended in an unexpected exception."""


@dataclass(frozen=True, slots=True)
class LoopHeartbeat:
    """Reports what one loop does."""

    name: str
    sink: LoopSink
    clock: Clock

    def ran(self) -> None:
        """A round ended now."""
        self.sink.ran(self.name, self.clock.time())

    def failed(self) -> None:
        """A round ended in an unexpected exception."""
        self.sink.failed(self.name)

    def guard(self) -> Guarded:
        """Logs and counts an unexpected exception of a round, and lets the loop continue."""
        return Guarded("loop.round_failed", self.failed, log.bind(loop=self.name))


Loop = Callable[[], Coroutine[None, None, None]]
Spawn = Callable[[LoopHeartbeat, Loop], asyncio.Task[None]]
"""Runs a loop by `endless`, as a task of the daemon with the loop's name."""


class Guarded:
    """Logs an unexpected exception with its trace as `event`, calls `failed`, and goes on.

    `logger` is structlog's. A cancellation is not caught.
    """

    def __init__(
        self, event: str, failed: Callable[[], None] | None = None, logger: Any = None
    ) -> None:
        self._event = event
        self._failed = failed
        self._log = log if logger is None else logger

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._log.error(self._event, exc_info=error)
        if self._failed is not None:
            self._failed()
        return True


@dataclass(frozen=True, slots=True)
class Schedule:
    """When rounds start, in seconds, from start to start.

    `jitter` gives a factor around 1 for each interval, so that several exporters do not fall into
    step. After a round longer than the interval the next one waits a tenth of the interval.
    """

    first_delay_seconds: float
    interval_seconds: float
    jitter: Callable[[], float] = lambda: 1.0


Round = Callable[[Callable[[], None]], Coroutine[None, None, None]]
"""One round. A round that had to wait first calls its argument when it starts to work: the interval
counts from that call, and without one from when the round was called."""


class Periodic:
    """Runs a round on a schedule. An unexpected exception ends the round, not the loop: it is
    logged and counted.
    """

    def __init__(self, heartbeat: LoopHeartbeat, round_: Round, schedule: Schedule) -> None:
        self.heartbeat = heartbeat
        self._round = round_
        self._schedule = schedule
        self._started_at = 0.0
        self._due_at: float | None = None

    @property
    def due_at(self) -> float | None:
        """When the next round is due, in monotonic seconds without jitter; None before `run`."""
        return self._due_at

    async def run(self) -> None:
        """Loop until cancelled."""
        clock = self.heartbeat.clock
        self._due_at = clock.monotonic() + self._schedule.first_delay_seconds
        await clock.sleep(self._schedule.first_delay_seconds)
        while True:
            self._start()
            with self.heartbeat.guard():
                await self._round(self._start)
            self.heartbeat.ran()
            await clock.sleep(self._pause(clock.monotonic() - self._started_at))

    def _start(self) -> None:
        self._started_at = self.heartbeat.clock.monotonic()
        self._due_at = self._started_at + self._schedule.interval_seconds

    def _pause(self, took: float) -> float:
        interval = self._schedule.interval_seconds
        return max(interval * self._schedule.jitter() - took, interval / 10)


async def endless(heartbeat: LoopHeartbeat, loop: Loop) -> None:
    """Run a loop until cancelled, and start it again when it fails or returns.

    So a failure of one loop does not end the others. A cancelled loop does not start again, even
    where code inside it swallowed the cancellation.
    """
    name, task = heartbeat.name, asyncio.current_task()
    if task is None:
        raise RuntimeError(f"the loop {name} needs a task")
    while True:
        with Guarded("loop.failed", heartbeat.failed, log.bind(loop=name)):
            try:
                await loop()
            except ExceptionGroup:
                # A TaskGroup cancels the task that it is in where one of its own fails. Before
                # Python 3.13 it does not always take that back.
                while task.uncancel():
                    pass
                raise
            if not task.cancelling():
                raise RuntimeError(f"the loop {name} ended by itself")
        if task.cancelling():
            raise asyncio.CancelledError
        await heartbeat.clock.sleep(RESTART_SECONDS)
