"""What every loop of the daemon runs in: an unexpected exception ends a round and not the loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from exporter.clock import Clock

RESTART_SECONDS = 5.0
"""From the end of a loop that failed as a whole to its next begin."""

log = structlog.get_logger(__name__)


class Spawn(Protocol):
    """Runs a loop as a task with that name, which somebody owns."""

    def __call__(
        self, name: str, loop: Callable[[], Coroutine[None, None, None]], /
    ) -> asyncio.Task[None]: ...


class Guarded:
    """Logs an unexpected exception with its trace as `event`, counts it by `failed`, and goes on.

    `logger` is structlog's. A cancellation passes.
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


async def endless(
    name: str,
    loop: Callable[[], Coroutine[None, None, None]],
    clock: Clock,
    failed: Callable[[], None],
) -> None:
    """Run a loop until cancelled, and again where it fails or ends by itself.

    What goes wrong with one loop must not end the others. One that was cancelled does not begin
    again, even where something within it lost the cancellation.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError(f"the loop {name} needs a task")
    while True:
        with Guarded("loop.failed", failed, log.bind(loop=name)):
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
        await clock.sleep(RESTART_SECONDS)
