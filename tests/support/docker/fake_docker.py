"""A Docker Engine in memory, with a vLLM in its containers that loads, serves and fails.

`World` is the engine: plain calls on a clock. It is as strict as the real one (a name is taken,
a missing image, a start that is refused) and keeps a list of all that was asked of it, so that a
test can say what was *not* done. `FakeDoor` lets a supervisor at it.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.container.decide.records import (
    ContainerEvent,
    ContainerSnapshot,
    ContainerStatus,
    DockerError,
    DockerProblem,
    LogLine,
    PullProgress,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from exporter.clock import Clock
    from exporter.container.decide.records import Launch

LIVE = (ContainerStatus.RUNNING, ContainerStatus.PAUSED)


@dataclass
class FakeContainer:
    id: str
    name: str
    image: str
    labels: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict)
    status: ContainerStatus = ContainerStatus.CREATED
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    started_time: float | None = None
    finished_time: float | None = None
    ready_at: float | None = None  # Unix; None: it never gets ready
    unhealthy: bool = False  # /health fails though it runs
    health: str | None = None  # by the check that its image brings along
    log: list[LogLine] = field(default_factory=list)
    script: list[LogLine] = field(default_factory=list)  # lines still to be written


class World:
    """The engine. What is to come is set beforehand: `load_seconds`, `crash_after`, `refuse`…"""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.containers: dict[str, FakeContainer] = {}
        self.images: set[str] = set()
        self.in_registry: set[str] = set()
        self.entrypoints: dict[str, tuple[str, ...]] = {}
        self.launched: list[Launch] = []
        self.down: DockerProblem | None = None
        self.refuse: dict[str, DockerError] = {}  # by the name of the call
        self.load_seconds: float | None = 30.0
        self.crash_after: float | None = None
        self.crash_code = 1
        self.chatty = True  # whether a start writes to its log
        self.extra_log: tuple[str, ...] = ()  # what a crash writes before it ends
        self.did: list[tuple[str, str]] = []  # (call, container name or image)
        self.log_readable = True
        self.start_lag = 0.0  # how much later than its first line Docker says that it started
        self.pull_seconds = 0.0
        self.stop_seconds = 0.0
        self.listeners: list[asyncio.Queue[ContainerEvent | None]] = []
        self._ids = itertools.count(1)

    # What Docker does when asked

    def inspect(self, reference: str) -> ContainerSnapshot | None:
        self._answer("inspect", reference)
        self.tick()
        found = [c for c in self.containers.values() if reference in (c.id, c.name)]
        return self.snapshot(found[0]) if found else None

    def find(self, label: str) -> tuple[ContainerSnapshot, ...]:
        self._answer("find", label)
        self.tick()
        key, equals, value = label.partition("=")
        found = [
            c
            for c in self.containers.values()
            if key in c.labels and (not equals or c.labels[key] == value)
        ]
        found.sort(key=lambda c: c.status not in LIVE)
        return tuple(self.snapshot(c) for c in found)

    def create(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        self._do("create", launch.name)
        self.launched.append(launch)
        if launch.image not in self.images:
            raise DockerError(DockerProblem.IMAGE_NOT_FOUND, f"No such image: {launch.image}")
        if launch.name in self.containers:
            raise DockerError(DockerProblem.CONFLICT, f"{launch.name} is in use")
        made = FakeContainer(
            f"c{next(self._ids)}", launch.name, launch.image, dict(launch.labels), dict(secrets)
        )
        self.containers[launch.name] = made
        self.tell(made, "create")
        return made.id

    def start(self, container_id: str) -> None:
        container = self._get(container_id)
        self._do("start", container.name, container)
        if container.status in LIVE:
            return
        now = self.clock.time()
        container.status = ContainerStatus.RUNNING
        container.started_time, container.finished_time = now + self.start_lag, None
        container.exit_code, container.oom_killed, container.error = None, False, ""
        container.unhealthy = False
        container.ready_at = None if self.load_seconds is None else now + self.load_seconds
        container.script = self._script(now) if self.chatty else []
        self.tell(container, "start")

    def stop(self, container_id: str, *, exit_code: int = 0) -> None:
        container = self._get(container_id)
        self._do("stop", container.name)
        if container.status in LIVE:
            self.end(container, exit_code)

    def unpause(self, container_id: str) -> None:
        container = self._get(container_id)
        self._do("unpause", container.name)
        if container.status is ContainerStatus.PAUSED:
            container.status = ContainerStatus.RUNNING
            self.tell(container, "unpause")

    def remove(self, container_id: str) -> None:
        container = self._get(container_id)
        self._do("remove", container.name)
        if container.status in LIVE:
            raise DockerError(DockerProblem.CONFLICT, "cannot remove a running container")
        self.vanish(container)

    def has_image(self, image: str) -> bool:
        self._answer("has_image", image)
        return image in self.images

    def entrypoint(self, image: str) -> tuple[str, ...] | None:
        self._answer("entrypoint", image)
        return self.entrypoints.get(image, ("vllm", "serve")) if image in self.images else None

    def pull(self, image: str) -> None:
        self._do("pull", image)
        if image not in self.in_registry:
            raise DockerError(DockerProblem.IMAGE_NOT_FOUND, f"manifest unknown: {image}")
        self.images.add(image)

    # What befalls it

    def only(self) -> FakeContainer:
        (container,) = self.containers.values()
        return container

    def end(self, container: FakeContainer, exit_code: int, *, oom: bool = False) -> None:
        container.status = ContainerStatus.EXITED
        container.exit_code, container.oom_killed = exit_code, oom
        container.finished_time = self.clock.time()
        container.script = []
        if oom:
            self.tell(container, "oom")
        self.tell(container, "die")

    def pause(self, container: FakeContainer) -> None:
        container.status = ContainerStatus.PAUSED
        self.tell(container, "pause")

    def vanish(self, container: FakeContainer) -> None:
        live = container.status in LIVE
        if live:
            self.end(container, 137)
        del self.containers[container.name]
        self.tell(container, "destroy")

    def write(self, container: FakeContainer, *lines: str) -> None:
        container.log.extend(LogLine(self.clock.time(), line) for line in lines)

    def healthy(self) -> bool:
        """Whether GET /health of the running server answers 200."""
        self.tick()
        now = self.clock.time()
        return any(
            c.status is ContainerStatus.RUNNING
            and not c.unhealthy
            and c.ready_at is not None
            and now >= c.ready_at
            for c in self.containers.values()
        )

    def listens(self) -> bool:
        """Whether the running server has opened its port; while it loads it has not."""
        failing = any(
            c.unhealthy for c in self.containers.values() if c.status is ContainerStatus.RUNNING
        )
        return failing or self.healthy()

    def tick(self) -> None:
        """Let happen what the clock says should have happened by now."""
        now = self.clock.time()
        for container in list(self.containers.values()):
            if container.status is not ContainerStatus.RUNNING:
                continue
            due = [line for line in container.script if line.time <= now]
            container.log.extend(due)
            container.script = container.script[len(due) :]
            started = (container.started_time or now) - self.start_lag
            if self.crash_after is not None and now >= started + self.crash_after:
                self.write(container, *self.extra_log)
                self.end(container, self.crash_code)

    def tell(self, container: FakeContainer, action: str) -> None:
        if self.down is not None:
            return
        event = ContainerEvent(container.id, container.name, action)
        for queue in self.listeners:
            queue.put_nowait(event)

    def go_down(self, problem: DockerProblem = DockerProblem.UNREACHABLE) -> None:
        self.down = problem
        for queue in self.listeners:
            queue.put_nowait(None)

    def snapshot(self, container: FakeContainer) -> ContainerSnapshot:
        return ContainerSnapshot(
            id=container.id,
            name=container.name,
            image=container.image,
            image_id=f"sha256:{container.image}",
            status=container.status,
            exit_code=container.exit_code,
            oom_killed=container.oom_killed,
            error=container.error,
            started_time=container.started_time,
            finished_time=container.finished_time,
            labels=container.labels,
            health=container.health,
        )

    def _script(self, now: float) -> list[LogLine]:
        if self.load_seconds is None:
            return [LogLine(now, "INFO Resolved architecture: Fake")]
        said = (
            (0.0, "INFO Resolved architecture: Fake"),
            (0.3, "INFO Starting to load model fake..."),
            (0.5, "INFO Loading weights took 1.00 seconds"),
            (0.9, "INFO Graph capturing finished in 1 secs"),
            (1.0, "INFO:     Application startup complete."),
        )
        return [LogLine(now + share * self.load_seconds, text) for share, text in said]

    def _get(self, container_id: str) -> FakeContainer:
        for container in self.containers.values():
            if container.id == container_id:
                return container
        self._answer("get", container_id)
        raise DockerError(DockerProblem.NOT_FOUND, f"No such container: {container_id}")

    def _do(self, call: str, on: str, container: FakeContainer | None = None) -> None:
        self._answer(call, on)
        self.did.append((call, on))
        refused = self.refuse.get(call)
        if refused is not None:
            if container is not None:
                container.error = refused.detail
                container.exit_code = 128
            raise refused

    def _answer(self, call: str, on: str) -> None:
        if self.down is not None:
            raise DockerError(self.down, f"{call} {on}: Docker does not answer")


class FakeDoor:
    """`exporter.container.door.DockerDoor` onto a World."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.open_logs = 0

    async def inspect(self, reference: str) -> ContainerSnapshot | None:
        return self.world.inspect(reference)

    async def find(self, label: str) -> tuple[ContainerSnapshot, ...]:
        return self.world.find(label)

    async def create(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        return self.world.create(launch, secrets)

    async def start(self, container_id: str) -> None:
        self.world.start(container_id)

    async def stop(self, container_id: str, grace_seconds: float) -> None:
        await self.world.clock.sleep(min(self.world.stop_seconds, grace_seconds))
        self.world.stop(
            container_id, exit_code=137 if self.world.stop_seconds > grace_seconds else 0
        )

    async def unpause(self, container_id: str) -> None:
        self.world.unpause(container_id)

    async def remove(self, container_id: str) -> None:
        with suppress(KeyError):
            self.world.remove(container_id)

    async def has_image(self, image: str) -> bool:
        return self.world.has_image(image)

    async def entrypoint(self, image: str) -> tuple[str, ...] | None:
        return self.world.entrypoint(image)

    async def pull(self, image: str, on_progress: Callable[[PullProgress], None]) -> None:
        on_progress(PullProgress(layers_done=0, layers=2, bytes_done=10, bytes_total=100))
        await self.world.clock.sleep(self.world.pull_seconds)
        self.world.pull(image)

    async def events(self) -> AsyncIterator[ContainerEvent]:
        self.world._answer("events", "")
        queue: asyncio.Queue[ContainerEvent | None] = asyncio.Queue()
        self.world.listeners.append(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.world.listeners.remove(queue)
        raise DockerError(DockerProblem.UNREACHABLE, "the event stream was cut")

    async def logs(self, container_id: str, since_time: float | None) -> AsyncIterator[LogLine]:
        self._check_log()
        self.open_logs += 1
        sent = 0
        try:
            while True:
                self._check_log()
                self.world._answer("logs", container_id)
                container = self.world._get(container_id)
                self.world.tick()
                fresh = container.log[sent:]
                sent += len(fresh)
                for line in fresh:
                    if since_time is None or line.time > since_time:
                        yield line
                if container.status not in LIVE:
                    return
                await self.world.clock.sleep(0.5)
        finally:
            self.open_logs -= 1

    async def tail(self, container_id: str, lines: int) -> tuple[LogLine, ...]:
        self._check_log()
        return tuple(self.world._get(container_id).log[-lines:])

    def _check_log(self) -> None:
        if not self.world.log_readable:
            raise DockerError(DockerProblem.PERMISSION_DENIED, "logs are not allowed")
