"""A supervisor at work on a Docker in memory, with all that it publishes and logs."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import structlog
from fake_clock import FakeClock
from fake_docker import FakeDoor, World
from lifecycle_daemon import IMAGE, target
from recorded_sinks import RecordedLoop

from exporter.container.supervisor import Supervisor
from exporter.container.supervisor_config import SupervisorConfig
from exporter.errors import EngineUnavailableError
from exporter.loops import LoopHeartbeat
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import SessionResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.container.decide.records import LifecycleState

STALLED = Failure(FailureReason.STALLED, "no further token")


def session(failure: Failure | None) -> SessionResult:
    return SessionResult(
        target="local",
        scenario="s",
        simulated=False,
        model=None,
        engine_version=None,
        started_time=0.0,
        duration_seconds=1.0,
        turns=(),
        failure=failure,
    )


class Scene:
    """A supervisor at work: its world, what it published, and its log."""

    def __init__(self, config: SupervisorConfig, world: World | None = None) -> None:
        self.clock = FakeClock() if world is None else world.clock
        self.world = World(self.clock) if world is None else world
        self.world.images.add(IMAGE)
        self.door = FakeDoor(self.world)
        self.views = []
        self.counted = RecordedLoop(may_fail=True)
        self.resting: FailureReason | None = None
        self.model: str | None = None
        self.health_deadlines: list[float] = []
        self.logged: list[dict[str, object]] = []
        self.supervisor = Supervisor(
            config,
            self.door,
            self.clock,
            engine=self,
            jitter=lambda: 0.5,
            sink=self,
            heartbeat=LoopHeartbeat("supervise:t", self.counted, self.clock),
        )

    async def healthy(self, seconds: float) -> bool:
        self.health_deadlines.append(seconds)
        if not self.world.listens():
            raise EngineUnavailableError(FailureReason.CONNECTION_REFUSED, "nothing listens")
        if not self.world.healthy():
            raise EngineUnavailableError(FailureReason.SERVER_ERROR, "")
        return True

    async def rest(self) -> FailureReason | None:
        return self.resting

    async def loaded_model(self) -> str | None:
        return self.model

    def container_changed(self, view) -> None:
        self.views.append(view)

    @property
    def view(self):
        return self.views[-1]

    async def wait(self, seconds: float) -> None:
        """Let that much time pass, in steps shorter than anything that is waited for."""
        for _ in range(int(seconds / 0.5)):
            await self.clock.advance(0.5)

    def states(self) -> list[LifecycleState]:
        told = []
        for view in self.views:
            if not told or told[-1] is not view.state:
                told.append(view.state)
        return told

    def events(self, level: str) -> list[object]:
        return [line["event"] for line in self.logged if line["log_level"] == level]


@asynccontextmanager
async def scene_of(
    mode="managed", setting=None, world=None, instance=None, **container: object
) -> AsyncIterator[Scene]:
    """`setting` prepares the world; `container` are settings of the target's container."""
    scene = Scene(SupervisorConfig(target(mode, **container), instance), world)
    if setting is not None:
        setting(scene.world)
    with structlog.testing.capture_logs() as scene.logged:
        task = asyncio.create_task(scene.supervisor.run())
        await scene.clock.settle()
        try:
            yield scene
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert scene.door.open_logs == 0, "no stream outlives the supervisor"
