"""What a real Docker Engine refuses, and what the door makes of it."""

from __future__ import annotations

import dataclasses
import socket

import pytest
from docker_steps import STUBBORN, kill, running

from exporter.container.decide.records import (
    ContainerStatus,
    DockerError,
    DockerProblem,
    GpuRequest,
    Mount,
)

pytestmark = pytest.mark.docker


async def test_a_name_that_is_taken_is_a_conflict(engine, launch_of):
    launch = launch_of("pass")
    await engine.create(launch, {})
    with pytest.raises(DockerError) as caught:
        await engine.create(launch, {})
    assert caught.value.problem is DockerProblem.CONFLICT
    assert launch.name in caught.value.detail


async def test_a_running_container_is_not_removed(engine, launch_of):
    container = await running(engine, launch_of(STUBBORN))
    with pytest.raises(DockerError) as caught:
        await engine.remove(container)
    assert caught.value.problem is DockerProblem.CONFLICT
    await kill(engine, container)


@pytest.mark.parametrize("action", ["start", "unpause"])
async def test_a_removed_container_is_not_found(engine, action):
    with pytest.raises(DockerError) as caught:
        await getattr(engine, action)("vce-test-never-made")
    assert caught.value.problem is DockerProblem.NOT_FOUND


async def test_a_missing_image_is_named(engine, launch_of):
    missing = "registry.invalid/vce-test/none:1"
    assert not await engine.has_image(missing)
    with pytest.raises(DockerError) as caught:
        await engine.create(launch_of("pass", image=missing), {})
    assert caught.value.problem is DockerProblem.IMAGE_NOT_FOUND
    assert missing in caught.value.detail


async def test_an_image_that_is_here_is_found(engine, python_image):
    assert await engine.has_image(python_image)


async def test_an_unreachable_registry_is_not_a_missing_image(engine):
    with pytest.raises(DockerError) as caught:
        await engine.pull("registry.invalid/vce-test/none:1", print)
    assert caught.value.problem is DockerProblem.REGISTRY_UNREACHABLE
    assert caught.value.__cause__ is not None


async def test_a_name_that_no_image_can_have_is_refused(engine, launch_of):
    with pytest.raises(DockerError) as caught:
        await engine.create(launch_of("pass", name="not a name"), {})
    assert caught.value.problem is DockerProblem.BAD_REQUEST


async def test_a_port_that_another_process_holds_is_port_taken(engine, launch_of):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        container = await engine.create(launch_of("pass", host_port=holder.getsockname()[1]), {})
        with pytest.raises(DockerError) as caught:
            await engine.start(container)
    assert caught.value.problem is DockerProblem.PORT_TAKEN
    left = await engine.inspect(container)
    assert (left.status, left.exit_code) == (ContainerStatus.CREATED, None)
    assert "address already in use" in left.error


async def test_a_port_that_another_container_holds_is_port_taken(engine, launch_of, free_port):
    holder = await running(engine, launch_of(STUBBORN, host_port=free_port))
    container = await engine.create(launch_of("pass", host_port=free_port), {})
    with pytest.raises(DockerError) as caught:
        await engine.start(container)
    assert caught.value.problem is DockerProblem.PORT_TAKEN
    await kill(engine, holder)


async def test_without_the_gpu_toolkit_a_start_is_refused_and_says_so(engine, launch_of):
    container = await engine.create(launch_of("pass", gpus=GpuRequest(count=-1)), {})
    try:
        await engine.start(container)
    except DockerError as exc:
        refusal = exc
    else:
        pytest.skip("this Docker Engine accepts a request for GPUs")
    assert refusal.problem is DockerProblem.GPU_DRIVER_MISSING
    left = await engine.inspect(container)
    assert left.status is ContainerStatus.CREATED
    assert "could not select device driver" in left.error


async def test_a_network_that_is_not_there_is_no_missing_container(engine, launch_of):
    container = await engine.create(launch_of("pass", network="vce-test-no-network"), {})
    with pytest.raises(DockerError, match="vce-test-no-network") as caught:
        await engine.start(container)
    assert caught.value.problem is DockerProblem.BAD_REQUEST


async def test_a_program_that_is_not_in_the_image_is_a_bad_request(engine, launch_of):
    launch = dataclasses.replace(launch_of(""), command=("vce-test-no-such-program",))
    container = await engine.create(launch, {})
    with pytest.raises(DockerError, match="executable file not found") as caught:
        await engine.start(container)
    assert caught.value.problem is DockerProblem.BAD_REQUEST


async def test_a_bind_mount_from_nowhere_is_a_bad_request(engine, launch_of):
    with pytest.raises(DockerError, match="bind source path does not exist") as caught:
        await engine.create(launch_of("pass", mounts=(Mount("/vce-test/nowhere", "/x"),)), {})
    assert caught.value.problem is DockerProblem.BAD_REQUEST
