"""One stream of Docker's events for all who listen: a stream takes a thread."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from exporter.container.decide.records import DockerError, DockerProblem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from exporter.container.decide.records import ContainerEvent

    _Queue = asyncio.Queue[ContainerEvent | DockerError]


class EventHub:
    """Opens the stream for the first listener, and ends it with the last one."""

    def __init__(self, stream: Callable[[], AsyncGenerator[ContainerEvent, None]]) -> None:
        self._stream = stream
        self._queues: set[_Queue] = set()
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> AsyncIterator[ContainerEvent]:
        """Events from now on. Raises `DockerError` where the stream is cut."""
        queue: _Queue = asyncio.Queue()
        self._queues.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._read(), name="docker events")
        try:
            while True:
                told = await queue.get()
                if isinstance(told, DockerError):
                    raise DockerError(told.problem, told.detail) from told
                yield told
        finally:
            self._queues.discard(queue)
            if not self._queues:
                await self.close()

    async def close(self) -> None:
        """End the stream."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _read(self) -> None:
        try:
            async with aclosing(self._stream()) as events:
                async for event in events:
                    for queue in self._queues:
                        queue.put_nowait(event)
            cut = DockerError(DockerProblem.UNREACHABLE, "the event stream: Docker ended it")
        except DockerError as error:
            cut = error
        except Exception as error:  # noqa: BLE001 - who listens is told, whatever it is
            cut = DockerError(DockerProblem.API_ERROR, f"the event stream: {error!r}")
            cut.__cause__ = error
        self._task = None  # who listens from here on opens another
        queues, self._queues = self._queues, set()
        for queue in queues:
            queue.put_nowait(cut)
