"""The loop that supervises one container: observe, decide, act at most once, publish, wait.

lifecycle.py decides. A failed call to Docker becomes part of the next observation. An unexpected
exception is logged and counted, and ends one round, not the loop.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from exporter.container.container_counters import ContainerCounters
from exporter.container.decide import activity
from exporter.container.decide.accounting import LIVE, action_failed
from exporter.container.decide.lifecycle import UNDER_WAY, decide
from exporter.container.decide.observation import Action, Memory
from exporter.container.decide.policy import Context
from exporter.container.decide.records import DockerError, DockerProblem
from exporter.container.observer import ContainerObserver
from exporter.container.reporter import ContainerReporter
from exporter.loops import Guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.container.decide.observation import Decision
    from exporter.container.decide.records import ContainerEvent, PullProgress
    from exporter.container.door import DockerDoor, EngineDoor
    from exporter.container.sink import ContainerSink
    from exporter.container.supervisor_config import SupervisorConfig
    from exporter.loops import LoopHeartbeat
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult

_EVENTS_RETRY_SECONDS = 5.0


class Supervisor:
    """Supervises one container until `run` is cancelled. Then call `shutdown`.

    `jitter` returns a number from 0 to 1.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        door: DockerDoor,
        clock: Clock,
        *,
        engine: EngineDoor,
        jitter: Callable[[], float],
        sink: ContainerSink,
        heartbeat: LoopHeartbeat,
    ) -> None:
        self._config = config
        self._settings = config.container
        self._door = door
        self._clock = clock
        self._engine = engine
        self._jitter = jitter
        self._heartbeat = heartbeat
        self._log = structlog.get_logger().bind(target=config.target.name)
        self._wake = asyncio.Event()
        self._memory = Memory()
        self._counters = ContainerCounters()
        self._observer = ContainerObserver(
            config, door, clock, self._log, engine=engine, on_load=self._counters.model_loaded
        )
        self._reporter = ContainerReporter(
            config, clock, observer=self._observer, counters=self._counters, sink=sink
        )

    def continue_from(self, other: Supervisor) -> None:
        """Continue with the counts of another supervisor of the same container."""
        self._counters.continue_from(other._counters)

    def session_finished(self, result: SessionResult) -> None:
        """Take a probe session into account."""
        observer = self._observer
        observer.activity = activity.session_ended(
            observer.activity, result, self._clock.monotonic()
        )
        if result.failure is not None:
            self._wake.set()

    def engine_read(self, view: EngineView) -> None:
        """Take a scrape of the engine's own /metrics into account."""
        self._observer.activity = activity.page_read(self._observer.activity, view)

    async def run(self) -> None:
        """Observe, decide and act until cancelled."""
        async with asyncio.TaskGroup() as group:
            events = group.create_task(
                self._watch_events(), name=f"events:{self._config.target.name}"
            )
            try:
                while True:
                    acted = False
                    with self._heartbeat.guard():
                        acted = await self.round()
                    if not acted:
                        await self._wait()
            finally:
                events.cancel()
                await self._observer.close()

    async def shutdown(self) -> None:
        """After `run`: leave the container running, stop or remove it, as the settings say."""
        on_shutdown = self._settings.on_shutdown
        if on_shutdown == "leave" or not self._config.policy.managed or self._config.held():
            return
        try:
            container = await self._observer.find()
            if container is None or not self._observer.is_ours(container):
                return
            if container.status in LIVE:
                self._log.info("container.stopping", container=container.name)
                await self._door.stop(container.id, self._settings.stop_grace_seconds)
            if on_shutdown == "remove":
                self._log.info("container.removing", container=container.name)
                await self._door.remove(container.id)
        except DockerError as error:
            self._log.warning("container.stop_failed", problem=error.problem, detail=error.detail)

    async def round(self) -> bool:
        """One observation, one decision, at most one action. Returns whether there was one."""
        seen = await self._observer.observe()
        before = self._memory
        decision = decide(before, seen, self._context())
        self._memory = decision.memory
        self._reporter.not_before = decision.not_before
        await self._reporter.decided(decision, before, seen)
        self._heartbeat.ran()
        if decision.became_ready and self._config.model is not None:
            self._reporter.model_loaded(await self._engine.loaded_model())
        if decision.action is Action.NOTHING:
            return False
        await self._act(decision)
        return True

    async def _act(self, decision: Decision) -> None:
        self._reporter.entered(UNDER_WAY[decision.action], decision.cause)
        self._log.info("container.action", action=decision.action, cause=decision.cause)
        try:
            await self._do(decision)
        except DockerError as error:
            self._refused(decision.action, error)
        finally:
            self._reporter.pull = None

    async def _do(self, decision: Decision) -> None:
        launch, container_id = self._config.launch, decision.container_id or ""
        match decision.action:
            case Action.PULL if launch is not None:
                await self._door.pull(launch.image, self._pulled)
            case Action.CREATE if launch is not None:
                fitted = await self._config.fitted(launch, self._door)
                await self._door.create(fitted, self._config.secrets)
            case Action.START:
                await self._door.start(container_id)
            case Action.STOP:
                await self._door.stop(container_id, self._settings.stop_grace_seconds)
            case Action.REMOVE:
                await self._door.remove(container_id)
            case Action.UNPAUSE:
                await self._door.unpause(container_id)

    def _refused(self, action: Action, error: DockerError) -> None:
        self._memory, counted = action_failed(self._memory, error.problem, self._context())
        self._reporter.not_before = self._memory.not_before
        self._reporter.refused(action, error, counted=counted)
        if error.problem is DockerProblem.UNREACHABLE:
            self._observer.docker_failed(error)

    def _pulled(self, progress: PullProgress) -> None:
        self._reporter.pull = progress
        self._reporter.publish()
        self._heartbeat.ran()  # a pull can take longer than a round may

    def _context(self) -> Context:
        return Context(self._clock.monotonic(), self._config.policy, self._jitter())

    async def _wait(self) -> None:
        """Wait until the next observation is due, or something happens."""
        seconds = self._settings.health_interval_seconds
        not_before = self._reporter.not_before
        if not_before is not None:
            seconds = min(seconds, max(0.05, not_before - self._clock.monotonic()))
        sleep = asyncio.create_task(self._clock.sleep(seconds), name="sleep")
        wake = asyncio.create_task(self._wake.wait(), name="wake")
        try:
            await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleep, wake):
                task.cancel()
            await asyncio.gather(sleep, wake, return_exceptions=True)
        self._wake.clear()

    async def _watch_events(self) -> None:
        """End a wait at Docker's events. Without events the wait ends when it is due."""
        while True:
            with Guarded("docker.events_failed", self._heartbeat.failed, self._log):
                await self._read_events()
            await self._clock.sleep(_EVENTS_RETRY_SECONDS)

    async def _read_events(self) -> None:
        try:
            async with aclosing(self._door.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    if self._concerns(event):
                        self._wake.set()
        except DockerError as error:
            self._log.debug("docker.events_cut", problem=error.problem)
            self._wake.set()  # Docker may not be running any more: observe now

    def _concerns(self, event: ContainerEvent) -> bool:
        known = self._observer.snapshot.id if self._observer.snapshot is not None else None
        named = event.name == self._config.target.container_name
        return event.container_id == known or named or known is None
