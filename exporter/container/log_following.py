"""Follows the log of one run: into the exporter's own log at debug, and for its progress."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING

from exporter.container.decide.log.endings import plain
from exporter.container.decide.log.loading import LoadProgress, read_line
from exporter.container.decide.log.masking import mask
from exporter.container.decide.records import DockerError, DockerProblem
from exporter.loops import Guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import structlog

    from exporter.clock import Clock
    from exporter.container.decide.observation import RunKey
    from exporter.container.door import DockerDoor

KEPT_LINES = 300  # for the diagnosis; vLLM's tracebacks are long
_RETRY_SECONDS = 5.0


class RunFollower:
    """Reads the log of one run to its end, and reconnects when the stream breaks.

    `progress` is None before the first line and while the log cannot be read: then its silence
    says nothing about the engine. `on_load` is called for each reading of the weights after
    `counted_from` (Unix). `lines` are the last lines, masked. `up`: the start is over, so the log
    is followed only while Docker's limit of open logs allows it.
    """

    def __init__(
        self,
        door: DockerDoor,
        key: RunKey,
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
        *,
        read_from: float | None,
        counted_from: float,
        on_load: Callable[[], None],
        secrets: Collection[str] = (),
        up: bool = False,
    ) -> None:
        self.key = key
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.progress: LoadProgress | None = None
        self._door = door
        self._clock = clock
        self._log = log
        self._known = LoadProgress()
        self._last_time = read_from
        self._counted_from = counted_from
        self._on_load = on_load
        self._secrets = secrets
        self._up = up
        self._task = asyncio.create_task(self._follow(), name=f"log:{key[0][:12]}")

    async def close(self) -> None:
        """Stop reading."""
        self._task.cancel()
        # Not `await self._task`: if the caller is cancelled at the same time, it could not tell
        # the two cancellations apart.
        await asyncio.wait({self._task})

    async def ended(self, seconds: float) -> None:
        """Wait, at most so long, until the log of a run that has ended is read to its end."""
        await asyncio.wait({self._task}, timeout=seconds)

    async def _follow(self) -> None:
        with Guarded("container.log_failed", logger=self._log):
            while not await self._read():
                self.progress = None
                await self._clock.sleep(_RETRY_SECONDS)
            return
        self.progress = None

    async def _read(self) -> bool:
        """Read on from the last line. Returns whether there is nothing more to read."""
        try:
            async with aclosing(self._door.logs(self.key[0], self._last_time)) as lines:  # type: ignore[type-var]
                async for line in lines:
                    self._last_time = line.time
                    self._take(line.time, line.text)
        except DockerError as error:
            self._log.debug("container.log_unreadable", problem=error.problem)
            # Too many logs are open. Starting containers need theirs; for others Docker's tail
            # is enough.
            return error.problem is DockerProblem.NO_THREADS and (self._up or self._known.served)
        return True  # the run has ended

    def _take(self, time: float, text: str) -> None:
        text = plain(text)
        loads = self._known.loads
        self._known = read_line(self._known, text)
        self.progress = self._known
        masked = mask(text, self._secrets)
        self.lines.append(masked)
        if self._known.loads > loads and time >= self._counted_from:
            self._on_load()
        self._log.debug("container.log", line=masked)
