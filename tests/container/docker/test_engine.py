"""The door on a real Docker Engine: the whole life of a container."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import aclosing

import pytest
from docker_steps import PATIENCE, POLITE, STUBBORN, ended, kill, running

from exporter.container.decide.records import (
    ContainerStatus,
    DockerError,
    DockerProblem,
    GpuRequest,
    Mount,
)
from exporter.container.docker.engine import DockerEngine

pytestmark = pytest.mark.docker

TICKING = "import time\nwhile True:\n    print('tick')\n    time.sleep(0.05)"


async def test_a_container_is_created_started_stopped_and_removed(engine, launch_of):
    launch = launch_of(POLITE, labels={"color": "blue"})
    assert await engine.inspect(launch.name) is None

    container = await engine.create(launch, {})
    created = await engine.inspect(launch.name)
    assert (created.id, created.name, created.image) == (container, launch.name, launch.image)
    assert created.status is ContainerStatus.CREATED
    assert created.labels["color"] == "blue"
    assert (created.exit_code, created.started_time, created.finished_time) == (None, None, None)

    await engine.start(container)
    await engine.start(container)  # one that runs already is no error
    started = await engine.inspect(container)
    assert started.status is ContainerStatus.RUNNING
    assert started.exit_code is None
    assert started.started_time is not None
    assert started.image_id.startswith("sha256:")

    async with aclosing(engine.logs(container, None)) as lines:
        assert (await anext(lines)).text == "up"
    await engine.stop(container, grace_seconds=30)
    await engine.stop(container, grace_seconds=30)
    stopped = await engine.inspect(container)
    assert stopped.status is ContainerStatus.EXITED
    assert stopped.exit_code == 3
    assert stopped.finished_time > stopped.started_time

    await engine.remove(container)
    await engine.remove(container)
    assert await engine.inspect(container) is None


async def test_a_stop_kills_when_the_grace_is_over(engine, launch_of):
    container = await running(engine, launch_of(STUBBORN))
    await engine.stop(container, grace_seconds=0.5)
    assert (await engine.inspect(container)).exit_code == 137


async def test_a_killed_container_has_exit_code_137(engine, launch_of):
    container = await running(engine, launch_of(STUBBORN))
    await kill(engine, container)
    killed = await ended(engine, container)
    assert (killed.exit_code, killed.oom_killed) == (137, False)


async def test_a_paused_container_can_go_on_and_can_be_stopped(engine, launch_of, docker_api):
    container = await running(engine, launch_of(POLITE))
    docker_api.pause(container)
    paused = await engine.inspect(container)
    assert (paused.status, paused.exit_code) == (ContainerStatus.PAUSED, None)
    await engine.unpause(container)
    await engine.unpause(container)
    assert (await engine.inspect(container)).status is ContainerStatus.RUNNING
    docker_api.pause(container)
    await engine.stop(container, grace_seconds=1)
    assert (await engine.inspect(container)).status is ContainerStatus.EXITED


async def test_the_memory_limit_shows_as_oom_killed(engine, launch_of):
    launch = launch_of("x = bytearray(300_000_000)", memory_bytes=64 * 2**20)
    container = await engine.create(launch, {})
    await engine.start(container)
    killed = await ended(engine, container)
    assert (killed.exit_code, killed.oom_killed) == (137, True)


async def test_a_published_port_is_in_the_snapshot_and_reachable(engine, launch_of, free_port):
    serve = (
        "import socket\n"
        "s = socket.create_server(('', 8000))\n"
        "print('up')\n"
        "while True:\n"
        "    c, _ = s.accept()\n"
        "    c.sendall(b'hello')\n"
        "    c.close()\n"
    )
    container = await running(engine, launch_of(serve, host_port=free_port))
    seen = await engine.inspect(container)
    assert seen.published_ports == {8000: ("127.0.0.1", free_port)}
    reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
    assert await reader.read() == b"hello"
    writer.close()
    await kill(engine, container)


async def test_a_launch_becomes_what_it_says(  # noqa: PLR0917 - one fixture for each thing said
    engine, launch_of, docker_api, docker_network, free_port, tmp_path
):
    launch = launch_of(
        "pass",
        environment={"COLOR": "blue"},
        mounts=(Mount(str(tmp_path), "/here", read_only=True), Mount("vce-test-none", "/there")),
        gpus=GpuRequest(count=-1),
        shm_bytes=2**27,
        memory_bytes=2**28,
        network=docker_network,
        host_port=free_port,
    )
    container = await engine.create(launch, {})
    try:
        made = docker_api.inspect_container(container)
    finally:
        await engine.remove(container)
        docker_api.remove_volume("vce-test-none")
    host = made["HostConfig"]
    assert "COLOR=blue" in made["Config"]["Env"]
    assert made["Config"]["Cmd"] == list(launch.command)
    assert host["ShmSize"] == 2**27
    assert host["Memory"] == 2**28
    assert host["NetworkMode"] == docker_network
    assert host["RestartPolicy"]["Name"] == "no"  # the supervisor restarts, Docker does not
    assert host["PortBindings"] == {
        "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(free_port)}]
    }
    assert [(m["Type"], m["Source"], m["Target"], m.get("ReadOnly")) for m in host["Mounts"]] == [
        ("bind", str(tmp_path), "/here", True),
        ("volume", "vce-test-none", "/there", None),
    ]
    [request] = host["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (-1, [["gpu"]])


async def test_gpus_can_be_named_and_the_ipc_of_the_host_taken(engine, launch_of, docker_api):
    launch = launch_of("pass", gpus=GpuRequest(device_ids=("0", "GPU-5")), ipc_host=True)
    made = docker_api.inspect_container(await engine.create(launch, {}))
    [request] = made["HostConfig"]["DeviceRequests"]
    assert (request["DeviceIDs"], request["Count"]) == (["0", "GPU-5"], 0)
    assert made["HostConfig"]["IpcMode"] == "host"


async def test_a_secret_file_is_in_the_container_and_not_in_inspect(engine, launch_of, docker_api):
    launch = launch_of(
        "import os\nprint(open('/run/secrets/hf_token').read(), os.environ['API_KEY'])",
        secret_files={"HF_TOKEN": "/run/secrets/hf_token"},
        secret_environment=("API_KEY",),
    )
    container = await engine.create(launch, {"HF_TOKEN": "hf_from-a-file", "API_KEY": "sk-env"})
    await engine.start(container)
    await ended(engine, container)
    [line] = await engine.tail(container, 10)
    assert line.text == "hf_from-a-file sk-env"
    shown = json.dumps(docker_api.inspect_container(container))
    assert "hf_from-a-file" not in shown
    assert "API_KEY=sk-env" in shown  # what a variable costs
    # It is there when the container starts again: no exporter has to be around for that.
    await engine.start(container)
    await ended(engine, container)
    assert [line.text for line in await engine.tail(container, 10)] == ["hf_from-a-file sk-env"] * 2


async def test_a_user_who_is_not_root_can_read_its_secret(engine, launch_of):
    launch = launch_of(
        "import os\nos.setuid(65534)\nprint(open('/run/secrets/hf_token').read())",
        secret_files={"HF_TOKEN": "/run/secrets/hf_token"},
    )
    container = await engine.create(launch, {"HF_TOKEN": "hf_x"})
    await engine.start(container)
    await ended(engine, container)
    assert [line.text for line in await engine.tail(container, 10)] == ["hf_x"]


async def test_a_container_whose_secret_cannot_be_put_in_is_not_left_behind(engine, launch_of):
    launch = launch_of("pass", secret_files={"HF_TOKEN": "/etc/passwd/token"})
    with pytest.raises(DockerError, match="put secrets into"):
        await engine.create(launch, {"HF_TOKEN": "hf_x"})
    assert await engine.inspect(launch.name) is None


async def test_a_secret_without_a_value_is_refused_before_anything_is_created(engine, launch_of):
    launch = launch_of("pass", secret_environment=("API_KEY",))
    with pytest.raises(DockerError, match="no value for API_KEY"):
        await engine.create(launch, {})
    assert await engine.inspect(launch.name) is None


async def test_find_puts_running_ones_first_then_the_newest(engine, launch_of):
    label = f"io.vllm-cache-exporter.target=find-{launch_of('').name}"
    key, _, value = label.partition("=")
    old, live, new = [
        await engine.create(launch_of(script, labels={key: value}), {})
        for script in ("pass", STUBBORN, "pass")
    ]
    await engine.start(live)
    assert [each.id for each in await engine.find(label)] == [live, new, old]
    assert await engine.find(f"{key}=nobody") == ()
    await kill(engine, live)


async def test_events_show_the_life_of_a_container(engine, launch_of):
    launch = launch_of("raise SystemExit(5)")
    seen = []

    async def listen():
        async with aclosing(engine.events()) as events:
            async for event in events:
                if event.name == launch.name:
                    seen.append(event)
                if event.name == launch.name and event.action == "destroy":
                    return

    listening = asyncio.create_task(listen())
    # An event of another container shows that the stream is open.
    await wait_until_events_flow(engine, launch_of)
    await asyncio.sleep(0.2)
    container = await engine.create(launch, {})
    await engine.start(container)
    await ended(engine, container)
    await engine.remove(container)
    async with asyncio.timeout(PATIENCE):
        await listening
    assert [event.action for event in seen] == ["create", "start", "die", "destroy"]
    assert {event.container_id for event in seen} == {container}


async def wait_until_events_flow(engine, launch_of):
    async with asyncio.timeout(PATIENCE), aclosing(engine.events()) as events:
        first = asyncio.create_task(anext(events))
        while not first.done():
            await engine.remove(await engine.create(launch_of("pass"), {}))
        await first


async def test_log_lines_come_as_they_are_written_with_both_outputs(engine, launch_of):
    script = (
        "import sys\n"
        "print('out')\n"
        "sys.stderr.write('err\\n')\n"
        "sys.stdout.buffer.write(b'\\xff not utf-8\\n')\n"
        "print('x' * 40000)\n"
        "print()\n"
        "sys.stdout.write('no end')\n"
    )
    container = await engine.create(launch_of(script), {})
    await engine.start(container)
    lines = [line async for line in engine.logs(container, None)]
    texts = [line.text for line in lines]
    assert "err" in texts
    texts.remove("err")
    # A line of more than 16 KiB is several messages to Docker and one line here.
    assert texts == ["out", "\ufffd not utf-8", "x" * 40000, "", "no end"]
    assert await engine.tail(container, 2) == tuple(lines[-2:])
    # Docker stamps each output apart, so lines of the two may swap their times by microseconds.
    middle = lines[3].time
    later = [line async for line in engine.logs(container, middle)]
    assert later == [line for line in lines if line.time > middle]
    assert 0 < len(later) < len(lines)
    await engine.remove(container)
    with pytest.raises(DockerError) as caught:
        await engine.tail(container, 1)
    assert caught.value.problem is DockerProblem.NOT_FOUND


async def test_the_log_of_a_container_with_a_terminal_is_read_too(
    engine, docker_api, python_image, run_label
):
    # Somebody else's container may have one (`docker run -t`, `tty: true`).
    key, _, value = run_label.partition("=")
    made = docker_api.create_container(
        python_image, ["python3", "-c", "print('one\\ntwo')"], tty=True, labels={key: value}
    )
    await engine.start(made["Id"])
    assert [line.text async for line in engine.logs(made["Id"], None)] == ["one", "two"]
    await ended(engine, made["Id"])
    assert [line.text for line in await engine.tail(made["Id"], 1)] == ["two"]


async def test_a_log_ends_when_its_container_is_killed(engine, launch_of):
    container = await running(engine, launch_of(TICKING))
    reading = asyncio.create_task(collect(engine.logs(container, None)))
    await kill(engine, container)
    async with asyncio.timeout(PATIENCE):
        assert "tick" in {line.text for line in await reading}


async def collect(lines):
    return [line async for line in lines]


async def test_a_stop_does_not_delay_the_queries(engine, launch_of):
    container = await running(engine, launch_of(STUBBORN))
    stopping = asyncio.create_task(engine.stop(container, grace_seconds=600))
    for _ in range(20):
        assert (await engine.inspect(container)).status is ContainerStatus.RUNNING
    assert not stopping.done()
    await kill(engine, container)
    async with asyncio.timeout(PATIENCE):
        await stopping


@pytest.mark.usefixtures("docker_api")
async def test_a_closed_engine_leaves_no_thread(docker_host):
    before = set(threading.enumerate())
    door = DockerEngine(docker_host)
    await door.inspect("vce-test-never-made")
    assert set(threading.enumerate()) > before
    await door.close()
    assert set(threading.enumerate()) == before
