"""`compare --restart-without-caching`: one managed engine, started with and without its cache.

The command uses a separate container with its own name and label. The daemon's supervisor creates
it and waits until it is ready; the command removes it at the end.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from exporter.cli.compare.play import Player, play_rounds, players_of
from exporter.container.decide.records import MANAGED_LABEL, ContainerStatus, LifecycleState
from exporter.container.docker.engine import DockerEngine, DockerLimits
from exporter.container.launching import container_of
from exporter.container.supervisor import Supervisor
from exporter.container.supervisor_config import SupervisorConfig
from exporter.daemon.probing import engine_client
from exporter.errors import ConfigError, EngineUnavailableError, ExporterError
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.exporter import Loops

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from exporter.clock import Clock
    from exporter.config import Settings, Target
    from exporter.container.decide.records import ContainerSnapshot, ContainerView
    from exporter.container.door import DockerDoor
    from exporter.engine.client.engine_client import EngineClient

_ON, _OFF = "--enable-prefix-caching", "--no-enable-prefix-caching"  # of vllm serve
_LIVE = {ContainerStatus.RUNNING, ContainerStatus.PAUSED, ContainerStatus.RESTARTING}


def variant(target: Target, *, caching: bool) -> Target:
    """The target with this command's container, with or without prefix caching.

    Raises `ConfigError` if the target is not managed.
    """
    if target.mode != "managed":
        raise ConfigError(
            f"target {target.name!r} is {target.mode}: only a managed target can be started with "
            "other flags"
        )
    container = container_of(target)
    changes: dict[str, object] = {
        "name": f"{target.container_name}-compare",
        "restart": "never",
        "on_shutdown": "remove",
        "hold_file": None,
    }
    words = container.args if container.command is None else container.command
    kept = tuple(word for word in words if word not in {_ON, _OFF})
    if container.command is None:
        changes |= {"prefix_caching": caching, "args": kept}
    else:
        changes["command"] = kept if caching else (*kept, _OFF)
    return target.model_copy(
        update={"name": f"{target.name}.compare", "container": container.model_copy(update=changes)}
    )


async def refuse_other_servers(door: DockerDoor, target: Target, client: EngineClient) -> None:
    """Raises `ExporterError` if a container or server runs that this command did not start."""
    own = variant(target, caching=True)
    for seen in await door.find(f"{MANAGED_LABEL}={target.name}"):
        _refuse_live(seen, f"it is the container of target {target.name}: stop it first")
    named = await door.inspect(target.container_name or target.name)
    if named is not None:
        _refuse_live(named, "this command did not create it: stop it first")
    left = await door.inspect(own.container_name or own.name)
    if left is not None:
        hint = f"of another comparison, or left by a killed one: docker rm -f {left.name}"
        _refuse_live(left, hint)
        if left.labels.get(MANAGED_LABEL) != own.name:
            raise ExporterError(
                f"a container named {left.name} exists, and this command did not create it: "
                "remove it"
            )
        await door.remove(left.id)
    if await _answers(client):
        raise ExporterError(
            f"a server already answers at {target.base_url}, and this command did not start it: "
            "stop it first, or give the target another host_port"
        )


def _refuse_live(seen: ContainerSnapshot, why: str) -> None:
    if seen.status in _LIVE:
        raise ExporterError(f"the container {seen.name} runs ({why})")


async def _answers(client: EngineClient) -> bool:
    try:
        return await client.healthy()
    except EngineUnavailableError:
        return False


@asynccontextmanager
async def started(
    target: Target, door: DockerDoor, clock: Clock, show: Callable[[str], None]
) -> AsyncIterator[None]:
    """Starts the engine of a `variant`, waits until it is ready, and removes it at the end.

    Raises `ExporterError` with the supervisor's diagnosis if it does not become ready.
    """
    container = container_of(target)
    views = _Views()
    async with engine_client(target, container.health_timeout_seconds) as client:
        supervisor = Supervisor(
            SupervisorConfig(target),
            door,
            clock,
            engine=client,
            jitter=random.random,
            sink=views,
            heartbeat=LoopHeartbeat("supervise", Loops(), clock),
        )
        loop = asyncio.create_task(supervisor.run(), name="supervisor")
        try:
            await _until_ready(views.queue, loop, target, show)
            loop.cancel()
            await asyncio.wait({loop})
            yield
        finally:
            loop.cancel()
            await asyncio.wait({loop})
            await supervisor.shutdown()


class _Views:
    """A `ContainerSink` that keeps the views until they are read."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[ContainerView] = asyncio.Queue()

    def container_changed(self, view: ContainerView) -> None:
        self.queue.put_nowait(view)


async def _until_ready(
    views: asyncio.Queue[ContainerView],
    loop: asyncio.Task[None],
    target: Target,
    show: Callable[[str], None],
) -> None:
    state = None
    while True:
        next_view = asyncio.create_task(views.get())
        await asyncio.wait({next_view, loop}, return_when=asyncio.FIRST_COMPLETED)
        if not next_view.done():
            next_view.cancel()
            raise ExporterError("the supervisor of the container ended unexpectedly")
        view = next_view.result()
        if view.state is not state:
            state = view.state
            show(f"container {target.container_name}: {state}")
        if state is LifecycleState.READY:
            return
        if view.diagnosis is not None:
            diagnosis = view.diagnosis
            evidence = f" ({diagnosis.evidence})" if diagnosis.evidence else ""
            raise ExporterError(
                f"the container {target.container_name} did not become ready: "
                f"{diagnosis.summary}{evidence}. {diagnosis.advice}"
            )
        if view.docker_problem is not None:
            raise ExporterError(f"Docker does not answer: {view.docker_problem}")


async def play_restarted(
    settings: Settings,
    target: Target,
    sessions: int,
    clock: Clock,
    *,
    players: list[Player],
    show: Callable[[str], None],
) -> None:
    """Play the sessions with and without prefix caching, in random order.

    Adds a player to `players` when it begins to play, the one with caching first.
    """
    sides = {caching: variant(target, caching=caching) for caching in (True, False)}
    container = container_of(target)
    door = DockerEngine(container.docker_host, DockerLimits(query=container.docker_timeout_seconds))
    try:
        async with engine_client(target, container.health_timeout_seconds) as client:
            await refuse_other_servers(door, target, client)
        for caching in random.sample([True, False], 2):
            one = sides[caching]
            async with started(one, door, clock, show), AsyncExitStack() as stack:
                name = "caching" if caching else "no caching"
                (player,) = await players_of(settings, {name: one}, stack)
                await _check_caching(player, caching=caching)
                players.insert(0 if caching else len(players), player)
                await play_rounds([player], sessions, show)
    finally:
        await door.close()


async def _check_caching(player: Player, *, caching: bool) -> None:
    """Raises `ExporterError` if the engine reports another prefix caching flag than it got."""
    view = await player.scraper.refresh()
    cache = view.snapshot.cache if view.snapshot else None
    if cache is not None and cache.prefix_caching not in {None, caching}:
        raise ExporterError(
            f"the engine reports enable_prefix_caching={cache.prefix_caching}, but was started "
            f"with {caching}: its image or model ignores the flag"
        )
