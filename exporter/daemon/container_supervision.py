"""One target's supervisor with its clients of Docker and of the engine."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from exporter.container.decide.records import LifecycleState
from exporter.container.launching import container_of
from exporter.container.supervisor import Supervisor
from exporter.container.supervisor_config import SupervisorConfig
from exporter.metrics.state.cost import PRICES

if TYPE_CHECKING:
    from asyncio import Task

    from exporter.config import Target
    from exporter.container.decide.records import ContainerView
    from exporter.container.sink import ContainerSink
    from exporter.daemon.target_context import TargetContext
    from exporter.engine.client.engine_client import EngineClient
    from exporter.loops import LoopHeartbeat

# In these states the engine cannot answer yet, and the supervisor is bringing it up.
_COMING_UP = frozenset(
    {
        *(LifecycleState.PULLING, LifecycleState.CREATING, LifecycleState.STARTING),
        *(LifecycleState.STOPPING, LifecycleState.BACKING_OFF),
    }
)


class ContainerSupervision:
    """Create it, then `start` or `continue_from`, at the end `close`.

    Several can exist for one container, as during a reload. Only the responsible one stops or
    removes the container at the end: the one that started or continued last.
    """

    def __init__(
        self,
        target: Target,
        client: EngineClient,
        context: TargetContext,
        *,
        sink: ContainerSink,
        heartbeat: LoopHeartbeat,
    ) -> None:
        """`client` is for checks of the container alone; `close` closes it.

        Raises `DockerError` for an invalid Docker host.
        """
        container = container_of(target)
        self._target = target
        self._client = client
        self._context = context
        self._sink = sink
        self._heartbeat = heartbeat
        self._docker: tuple[str, float] | None
        self._docker = container.docker_host, container.docker_timeout_seconds
        self.supervisor = Supervisor(
            SupervisorConfig(target, context.instance),
            context.docker.acquire(*self._docker),
            context.clock,
            engine=client,
            jitter=random.random,
            sink=self,
            heartbeat=heartbeat,
        )
        self._responsible = False
        self._up = asyncio.Event()
        self._task: Task[None] | None = None

    def serves(self, target: Target) -> bool:
        """Whether the supervisor would do the same for a target with these settings."""
        return target.container is not None and _supervised_settings(
            target
        ) == _supervised_settings(self._target)

    def start(self) -> None:
        self._responsible = True
        self._task = self._context.spawn(self._heartbeat, self.supervisor.run)

    def continue_from(self, other: ContainerSupervision) -> None:
        """Continue with the container of `other`, of the same target, and with its counts.

        If it is another container, nothing happens, and `other` stays responsible for its own.
        """
        if _container_key(self._target) == _container_key(other._target):
            self.supervisor.continue_from(other.supervisor)
            self._responsible, other._responsible = True, False

    async def up(self) -> None:
        """Wait until the engine is ready, or until the supervisor is not bringing it up."""
        await self._up.wait()

    def tasks(self) -> list[Task[None]]:
        return [] if self._task is None else [self._task]

    async def close(self) -> None:
        """After the loop: handle the container as its settings say, and close the clients."""
        responsible, self._responsible = self._responsible, False
        try:
            if responsible:
                await self.supervisor.shutdown()
        finally:
            await self._client.close()
            docker, self._docker = self._docker, None
            if docker is not None:
                await self._context.docker.release(*docker)

    def container_changed(self, view: ContainerView) -> None:
        """Publish a view of the supervisor."""
        if view.state not in _COMING_UP:
            self._up.set()
        self._sink.container_changed(view)


def _supervised_settings(target: Target) -> dict[str, Any]:
    return target.model_dump(exclude={"model", *PRICES})


def _container_key(target: Target) -> tuple[str, str, str | None, str | None]:
    container = container_of(target)
    return target.mode, container.docker_host, target.container_name, container.label
