"""The door to a Docker Engine: implements DockerDoor with docker-py.

Only this room imports docker, requests or urllib3. Import it where it is used: docker-py is slow to
import, and an exporter without containers never needs it.

docker-py blocks, so none of it runs on the event loop. Short calls share one thread, and so do all
listeners to events. A long call (stop, pull, log) has its own thread and client, so that it blocks
no other call and can be aborted. The number of long calls at the same time is limited.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import docker.errors

from exporter.container.decide.records import (
    ContainerSnapshot,
    ContainerStatus,
    DockerError,
    DockerProblem,
)
from exporter.container.docker.creation import create
from exporter.container.docker.errors import sort_answer
from exporter.container.docker.events import EventHub
from exporter.container.docker.records import PullCounter, snapshot_from
from exporter.container.docker.streams import events, log_lines
from exporter.container.docker.worker import DockerWorker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping

    from exporter.container.decide.records import ContainerEvent, Launch, LogLine, PullProgress
    from exporter.container.docker.transport import DockerClient

T = TypeVar("T")

_LIVE = {ContainerStatus.RUNNING, ContainerStatus.PAUSED, ContainerStatus.RESTARTING}
# Each of these calls needs a thread. One Docker Engine needs at most 74 of the 256 tasks that the
# systemd unit allows, for any number of containers.
_MAX_CHANGES = 32
_MAX_PULLS = 4
_MAX_LOGS = 32
_MAX_TAILS = 4
# Events of a container's lifecycle; the others are health checks and the like.
_EVENTS = [
    *("create", "start", "die", "oom", "kill", "stop", "destroy", "pause", "unpause", "restart")
]
# A log can end a moment before inspect shows that the container has ended.
_EXIT_CHECKS_SECONDS = (0.0, 0.1, 0.3, 0.6, 1.0)


@dataclass(frozen=True, slots=True)
class DockerLimits:
    """How long Docker may be silent within a call, in seconds. A whole call may take twice that.

    Queries read Docker's memory. Changes need the kernel and the disk, and a start with GPUs runs
    NVIDIA's hook. A pull is silent while the disk writes a layer.
    """

    query: float = 10.0
    change: float = 60.0
    pull: float = 300.0


class DockerEngine:
    """A DockerDoor to the engine at `host`: unix:///path, tcp://host:port, http:// or https://.

    Create and `close` it in a running event loop. Nothing is sent before the first call. Raises
    DockerError for any other form of `host`.
    """

    def __init__(self, host: str, limits: DockerLimits | None = None) -> None:
        self.host = host
        self._limits = limits or DockerLimits()
        self._workers: set[DockerWorker] = set()
        self._commands = self._open("commands", self._limits.query)
        self._changes = asyncio.Semaphore(_MAX_CHANGES)
        self._pulls = asyncio.Semaphore(_MAX_PULLS)
        self._tails = asyncio.Semaphore(_MAX_TAILS)
        self._events = EventHub(self._event_stream)
        self._logs: list[DockerWorker] = []  # the oldest first
        self._making_room = asyncio.Lock()
        self._closed = False

    async def close(self) -> None:
        """Abort every call and stream, and end every thread."""
        self._closed = True
        await asyncio.gather(*(worker.close() for worker in tuple(self._workers)))
        await self._events.close()
        self._workers.clear()

    async def inspect(self, reference: str) -> ContainerSnapshot | None:
        return await self._query(f"inspect {reference}", lambda at: _inspect(at, reference))

    async def find(self, label: str) -> tuple[ContainerSnapshot, ...]:
        def work(at: DockerClient) -> tuple[ContainerSnapshot, ...]:
            listed = at.api.containers(all=True, filters={"label": label})
            newest_first = sorted(listed, key=lambda each: each["Created"], reverse=True)
            looked_at = (_inspect(at, each["Id"]) for each in newest_first)
            found = [each for each in looked_at if each is not None]
            return tuple(sorted(found, key=lambda each: each.status not in _LIVE))

        return await self._query(f"find containers with {label}", work)

    async def create(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        for name in (*launch.secret_environment, *launch.secret_files):
            if name not in secrets:
                raise DockerError(
                    DockerProblem.BAD_REQUEST, f"create {launch.name}: no value for {name}"
                )
        return await self._change(f"create {launch.name}", lambda at: create(at, launch, secrets))

    async def start(self, container_id: str) -> None:
        await self._change(f"start {container_id}", lambda at: at.api.start(container_id))

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        whole = math.ceil(grace_seconds)  # Docker counts in whole seconds
        await self._change(
            f"stop {container_id}", lambda at: at.api.stop(container_id, timeout=whole), whole
        )

    async def unpause(self, container_id: str) -> None:
        await self._change_unless(
            f"unpause {container_id}", lambda at: at.api.unpause(container_id), "is not paused"
        )

    async def remove(self, container_id: str) -> None:
        # v: anonymous volumes go with their container, named ones stay.
        await self._change_unless(
            f"remove {container_id}",
            lambda at: at.api.remove_container(container_id, v=True),
            "no such container",
        )

    async def volumes(self) -> frozenset[str]:
        """The names of all volumes."""

        def work(at: DockerClient) -> frozenset[str]:
            listed: Mapping[str, Any] = at.api.volumes()
            return frozenset(each["Name"] for each in listed["Volumes"] or ())

        return await self._query("list the volumes", work)

    async def remove_volume(self, name: str) -> None:
        """Remove a volume. A missing one is no error; Docker refuses one that a container has."""
        await self._change_unless(
            f"remove the volume {name}", lambda at: at.api.remove_volume(name), "no such volume"
        )

    async def has_image(self, image: str) -> bool:
        doing = f"look for the image {image}"
        return await self._query(doing, lambda at: _image(at, image) is not None)

    async def entrypoint(self, image: str) -> tuple[str, ...] | None:
        doing = f"inspect the image {image}"
        return await self._query(doing, lambda at: _entrypoint(_image(at, image)))

    async def pull(self, image: str, on_progress: Callable[[PullProgress], None]) -> None:
        loop = asyncio.get_running_loop()

        def work(at: DockerClient) -> None:
            counters = PullCounter()
            last: PullProgress | None = None
            for line in at.api.pull(image, stream=True, decode=True):
                if "error" in line:
                    words = str(line["error"])
                    raise DockerError(sort_answer(None, words), f"pull {image}: {words}")
                progress = counters.add(line)
                if progress is not None and progress != last:
                    last = progress
                    loop.call_soon_threadsafe(on_progress, progress)
            if _image(at, image) is None:  # a proxy can end the answer early
                raise DockerError(
                    DockerProblem.API_ERROR, f"pull {image}: it ended, but the image is not there"
                )

        async with self._pulls, self._own_worker("pull", self._limits.pull) as worker:
            await worker.run(f"pull {image}", work, None)

    def events(self) -> AsyncIterator[ContainerEvent]:
        return self._events.listen()

    async def _event_stream(self) -> AsyncGenerator[ContainerEvent, None]:
        query = {"filters": json.dumps({"type": ["container"], "event": _EVENTS})}
        async with self._own_worker("events", self._limits.query) as worker:
            stream = await worker.run(
                "open the event stream",
                lambda at: events(at.get("/events", query, endless=True)),
                2 * self._limits.query,
            )
            async with aclosing(_drain(worker, "read the event stream", stream)) as drained:
                async for event in drained:
                    yield event
        raise DockerError(DockerProblem.UNREACHABLE, "read the event stream: Docker ended it")

    async def logs(self, container_id: str, since_time: float | None) -> AsyncIterator[LogLine]:
        doing = f"read the log of {container_id}"
        async with self._log_worker() as worker:
            stream = await worker.run(
                doing,
                lambda at: _log(at, container_id, {"follow": 1, **_since(since_time)}),
                2 * self._limits.query,
            )
            async with aclosing(_drain(worker, doing, stream)) as drained:
                async for line in drained:
                    if since_time is None or line.time > since_time:
                        yield line
            await self._expect_ended(container_id, doing)

    async def tail(self, container_id: str, lines: int) -> tuple[LogLine, ...]:
        # Not on the shared thread: a long log on a slow disk would block every query.
        async with self._tails, self._own_worker("tail", self._limits.query) as worker:
            return await worker.run(
                f"read the log of {container_id}",
                lambda at: tuple(_log(at, container_id, {"tail": lines})),
                2 * self._limits.query,
            )

    async def _expect_ended(self, container_id: str, doing: str) -> None:
        """When Docker shuts down, it also ends the logs of running containers."""
        for seconds in _EXIT_CHECKS_SECONDS:
            await asyncio.sleep(seconds)
            seen = await self.inspect(container_id)
            if seen is None or seen.status not in _LIVE:
                return
        raise DockerError(
            DockerProblem.UNREACHABLE, f"{doing}: Docker ended it, but the container runs"
        )

    async def _query(self, doing: str, work: Callable[[DockerClient], T]) -> T:
        return await self._commands.run(doing, work, 2 * self._limits.query)

    async def _change(
        self, doing: str, work: Callable[[DockerClient], T], more_seconds: float = 0.0
    ) -> T:
        async with self._changes, self._own_worker("change", self._limits.change) as worker:
            return await worker.run(doing, work, 2 * self._limits.change + more_seconds)

    async def _change_unless(
        self, doing: str, work: Callable[[DockerClient], object], already: str
    ) -> None:
        """A change. If Docker's refusal contains `already`, there is nothing to do."""
        try:
            await self._change(doing, work)
        except DockerError as exc:
            if already not in exc.detail.lower():
                raise

    @asynccontextmanager
    async def _own_worker(self, name: str, read_seconds: float) -> AsyncIterator[DockerWorker]:
        if self._closed:
            raise DockerError(DockerProblem.UNREACHABLE, "the connection to Docker is closed")
        worker = self._open(name, read_seconds)
        try:
            yield worker
        finally:
            self._workers.discard(worker)
            await worker.close()

    @asynccontextmanager
    async def _log_worker(self) -> AsyncIterator[DockerWorker]:
        """A worker for one log. At the limit the log that was followed longest is closed."""
        async with AsyncExitStack() as stack:
            async with self._making_room:  # one at a time, so that each closes another log
                if len(self._logs) >= _MAX_LOGS:
                    why = DockerError(DockerProblem.NO_THREADS, "the limit of open logs is reached")
                    await self._logs.pop(0).close(why)
                own = self._own_worker("logs", self._limits.query)
                worker = await stack.enter_async_context(own)
                self._logs.append(worker)
            try:
                yield worker
            finally:
                if worker in self._logs:
                    self._logs.remove(worker)

    def _open(self, name: str, read_seconds: float) -> DockerWorker:
        worker = DockerWorker(name, self.host, read_seconds)
        self._workers.add(worker)
        return worker


async def _drain(worker: DockerWorker, doing: str, stream: Iterator[T]) -> AsyncGenerator[T, None]:
    while True:
        # None is the end: a thread cannot raise StopIteration into a coroutine.
        item = await worker.run(doing, lambda _: next(stream, None), None)
        if item is None:
            return
        yield item


def _inspect(at: DockerClient, reference: str) -> ContainerSnapshot | None:
    try:
        return snapshot_from(at.api.inspect_container(reference))
    except docker.errors.NotFound:
        return None


def _image(at: DockerClient, image: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = at.api.inspect_image(image)  # type: ignore[no-untyped-call]
    except docker.errors.ImageNotFound:
        return None
    return found


def _entrypoint(image: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    return None if image is None else tuple(image["Config"].get("Entrypoint") or ())


def _log(at: DockerClient, container_id: str, query: Mapping[str, Any]) -> Iterator[LogLine]:
    # Older daemons do not have it in the answer's content type.
    terminal = at.api.inspect_container(container_id)["Config"]["Tty"]
    response = at.get(
        f"/containers/{container_id}/logs",
        {"stdout": 1, "stderr": 1, "timestamps": 1, **query},
        endless="follow" in query,
    )
    return log_lines(response, terminal=terminal)


def _since(time: float | None) -> dict[str, str]:
    """A little earlier: a float cannot hold Docker's nanoseconds. The caller filters."""
    return {} if time is None else {"since": f"{max(0.0, time - 1e-3):.9f}"}
