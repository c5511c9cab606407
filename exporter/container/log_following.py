"""Following one run's log: into our own log at debug, and into what is known of its start."""

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

KEPT_LINES = 300  # of a run's end, for the diagnosis; vLLM's tracebacks are long
_RETRY_SECONDS = 5.0


class RunFollower:
    """Reads one run's log to its end, beginning anew where the stream is cut.

    `progress` is None until a first line came, and again while the log cannot be read: silence
    of a log that nobody reads says nothing about the engine. `on_load` is called for each time
    that weights were read after `counted_from` (Unix). `lines` are the last ones, masked. `up`: its
    start is over, so that it is followed only while there is room.
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
        # Not `await self._task`: where the caller itself is cancelled meanwhile, the two
        # cancellations could not be told apart, and one of them would be lost.
        await asyncio.wait({self._task})

    async def ended(self, seconds: float) -> None:
        """Wait until the rest of a run that has ended is read, but no longer than that."""
        await asyncio.wait({self._task}, timeout=seconds)

    async def _follow(self) -> None:
        with Guarded("container.log_failed", logger=self._log):
            while not await self._read():
                self.progress = None
                await self._clock.sleep(_RETRY_SECONDS)
            return
        self.progress = None

    async def _read(self) -> bool:
        """Read on from where it was cut; whether there is nothing more to read, or no need to."""
        try:
            async with aclosing(self._door.logs(self.key[0], self._last_time)) as lines:  # type: ignore[type-var]
                async for line in lines:
                    self._last_time = line.time
                    self._take(line.time, line.text)
        except DockerError as error:
            self._log.debug("container.log_unreadable", problem=error.problem)
            # Too many logs. Those that start need it; of the others Docker's tail tells the end.
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
