"""Docker itself restarted and frozen under an open door, on an engine of the test's own."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import docker
import pytest
from docker_steps import kill

from exporter.container.decide.records import (
    ContainerStatus,
    DockerError,
    DockerProblem,
    GpuRequest,
)
from exporter.container.docker.engine import DockerEngine, DockerLimits

pytestmark = pytest.mark.docker

PATIENCE = 60.0  # seconds; only a broken test waits that long
TICKING = "import time\nwhile True:\n    print('tick')\n    time.sleep(0.05)"


@pytest.fixture(scope="module")
def daemon(private_dockerd):
    with private_dockerd() as started:
        yield started


@pytest.fixture
async def door(daemon):
    opened = DockerEngine(daemon.host, DockerLimits(query=2, change=60, pull=60))
    yield opened
    await opened.close()


@pytest.fixture
def offline(launch_of):
    """A Launch for an engine without a network."""

    def make(script, **changes):
        return launch_of(script, network="none", **changes)

    return make


async def read_to_the_end(stream):
    async with aclosing(stream):
        return [each async for each in stream]


async def outcome(task):
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait({task})
    return task.exception()


async def ticking(door, offline):
    container = await door.create(offline(TICKING), {})
    await door.start(container)
    async with asyncio.timeout(PATIENCE), aclosing(door.logs(container, None)) as lines:
        await anext(lines)
    return container


async def test_a_restart_of_docker_ends_the_streams_and_later_calls_work(daemon, door, offline):
    container = await ticking(door, offline)
    events = asyncio.create_task(read_to_the_end(door.events()))
    log = asyncio.create_task(read_to_the_end(door.logs(container, None)))
    await asyncio.sleep(0.5)  # both are open, or their requests meet the stopped daemon: same end

    await asyncio.to_thread(daemon.stop)
    assert (await outcome(events)).problem is DockerProblem.UNREACHABLE
    # Docker stops its containers when it stops: their logs end, or are cut.
    assert isinstance(await outcome(log), DockerError | None)
    with pytest.raises(DockerError) as caught:
        await door.inspect(container)
    assert caught.value.problem is DockerProblem.UNREACHABLE

    await asyncio.to_thread(daemon.start)
    seen = await door.inspect(container)
    assert seen.status is ContainerStatus.EXITED
    died = asyncio.create_task(next_death(door))
    while not died.done():  # the stream may not be open at the first one
        await door.start(container)
        await kill(door, container)
        await asyncio.wait({died}, timeout=0.5)
    assert (await died).action == "die"


async def next_death(door):
    async with asyncio.timeout(PATIENCE), aclosing(door.events()) as events:
        async for event in events:
            if event.action == "die":
                return event
    raise AssertionError("the stream ended by itself")


async def test_a_frozen_docker_is_a_timeout_and_later_calls_work(daemon, door, offline):
    container = await ticking(door, offline)
    daemon.freeze()
    try:
        with pytest.raises(DockerError) as caught:
            await door.inspect(container)
        assert caught.value.problem is DockerProblem.TIMEOUT
        with pytest.raises(DockerError) as caught:
            await anext(door.events())
        assert caught.value.problem is DockerProblem.TIMEOUT
    finally:
        daemon.thaw()
    assert (await door.inspect(container)).status is ContainerStatus.RUNNING
    await kill(door, container)


async def test_a_container_that_outlives_dockers_restart_is_still_followed(
    private_dockerd, offline
):
    with private_dockerd("--live-restore") as daemon:
        door = DockerEngine(daemon.host, DockerLimits(query=2, change=60, pull=60))
        try:
            container = await ticking(door, offline)
            log = asyncio.create_task(read_to_the_end(door.logs(container, None)))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(daemon.stop)
            # The container runs on: the log that ended is no end.
            assert isinstance(await outcome(log), DockerError)
            await asyncio.to_thread(daemon.start)
            assert (await door.inspect(container)).status is ContainerStatus.RUNNING
            async with asyncio.timeout(PATIENCE), aclosing(door.logs(container, None)) as lines:
                assert (await anext(lines)).text == "tick"
            await kill(door, container)
        finally:
            await door.close()


async def test_gpus_are_asked_for_where_the_engine_takes_it(private_dockerd, offline):
    with private_dockerd(gpus=True) as daemon:
        door = DockerEngine(daemon.host)
        api = docker.APIClient(daemon.host, version="auto", timeout=60)
        try:
            container = await door.create(offline(TICKING, gpus=GpuRequest(count=-1)), {})
            await door.start(container)
            assert (await door.inspect(container)).status is ContainerStatus.RUNNING
            [request] = api.inspect_container(container)["HostConfig"]["DeviceRequests"]
            assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])
            await kill(door, container)
        finally:
            api.close()
            await door.close()
