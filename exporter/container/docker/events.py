"""One stream of Docker's events for all listeners, because a stream needs a thread."""

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
    """Opens the stream for the first listener and closes it after the last one."""

    def __init__(self, stream: Callable[[], AsyncGenerator[ContainerEvent, None]]) -> None:
        self._stream = stream
        self._queues: set[_Queue] = set()
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> AsyncIterator[ContainerEvent]:
        """Events from now on. Raises `DockerError` when the stream breaks."""
        queue: _Queue = asyncio.Queue()
        self._queues.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._read(), name="docker events")
        try:
            while True:
                event = await queue.get()
                if isinstance(event, DockerError):
                    raise DockerError(event.problem, event.detail) from event
                yield event
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
            broken = DockerError(DockerProblem.UNREACHABLE, "the event stream: Docker ended it")
        except DockerError as error:
            broken = error
        except Exception as error:  # noqa: BLE001 - every listener gets it
            broken = DockerError(DockerProblem.API_ERROR, f"the event stream: {error!r}")
            broken.__cause__ = error
        self._task = None  # the next listener opens another stream
        queues, self._queues = self._queues, set()
        for queue in queues:
            queue.put_nowait(broken)
