"""`launch` as a process: what it makes is what the line that it prints makes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys

import docker.errors
import pytest

pytestmark = pytest.mark.docker

SETTINGS = """
[[targets]]
name = "launched"
mode = "managed"
[targets.container]
name = "{name}"
image = "{image}"
command = ["python3", "-c", "import signal; signal.pause()", "it's \\"quoted\\" $HOME"]
gpus = 0
host_port = {port}
shm_size = "96m"
memory_limit = "200m"
hf_cache = "{name}"
vllm_cache = "none"
docker_host = "{host}"
environment = {{ GREETING = "hello world" }}
"""


@pytest.fixture
def made(docker_api, docker_host, python_image, free_port, tmp_path):
    """A configuration, and its container's name; both are gone afterwards."""
    name = f"vce-test-{secrets.token_hex(6)}"
    file = tmp_path / "exporter.toml"
    facts = {"name": name, "image": python_image, "port": free_port, "host": docker_host}
    file.write_text(SETTINGS.format(**facts))
    yield file, name
    remove(docker_api, name)
    with contextlib.suppress(docker.errors.NotFound):
        docker_api.remove_volume(name)


def remove(docker_api, name: str) -> None:
    with contextlib.suppress(docker.errors.NotFound):
        docker_api.remove_container(name, force=True, v=True)


async def launch(file, *more: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "launch", "--config", str(file), *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=file.parent,
        env={"PATH": os.environ["PATH"]},
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
async def test_without_a_gpu_it_says_so_and_what_to_do_and_leaves_nothing(made, docker_api):
    file, name = made
    file.write_text(file.read_text().replace("gpus = 0", "gpus = 1"))
    code, output, errors = await launch(file)
    assert (code, output) == (1, "")
    assert ": Docker has no NVIDIA driver to give GPUs to a container. (" in errors
    assert "Or set gpus = 0." in errors
    assert "Traceback" not in errors
    with pytest.raises(docker.errors.NotFound):
        docker_api.inspect_container(name)
    with pytest.raises(docker.errors.NotFound):
        docker_api.inspect_volume(name)


async def test_a_volume_that_was_there_before_a_failed_launch_stays(made, docker_api):
    file, name = made
    docker_api.create_volume(name)
    file.write_text(file.read_text().replace("gpus = 0", "gpus = 1"))
    assert (await launch(file))[0] == 1
    assert docker_api.inspect_volume(name)["Name"] == name


def facts_of(docker_api, name: str) -> dict[str, object]:
    """The settings of a container, by Docker's inspect."""
    seen = docker_api.inspect_container(name)
    config, host = seen["Config"], seen["HostConfig"]
    return {
        "command": config["Cmd"],
        "environment": sorted(config["Env"]),
        "labels": config["Labels"],
        "ports": host["PortBindings"],
        "shm": host["ShmSize"],
        "memory": host["Memory"],
        "gpus": host["DeviceRequests"],
        "network": host["NetworkMode"],
        "ipc": host["IpcMode"],
        "mounts": sorted(
            (mount["Type"], mount.get("Name"), mount["Destination"], mount["RW"])
            for mount in seen["Mounts"]
        ),
    }


async def test_the_printed_line_makes_the_same_container_as_launch(docker_api, made):
    if shutil.which("docker") is None:
        pytest.skip("no docker command line here")
    file, name = made
    code, line, _ = await launch(file, "--print")
    assert code == 0
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", line, stdout=asyncio.subprocess.DEVNULL
    )
    assert await shell.wait() == 0
    by_hand = facts_of(docker_api, name)
    remove(docker_api, name)
    code, output, _ = await launch(file)
    assert code == 0
    assert name in output
    assert facts_of(docker_api, name) == by_hand
    assert docker_api.inspect_container(name)["State"]["Running"]


async def test_a_container_that_runs_already_is_left_alone(docker_api, made):
    file, name = made
    assert (await launch(file))[0] == 0
    before = docker_api.inspect_container(name)["State"]["StartedAt"]
    code, _, errors = await launch(file)
    assert code == 0
    assert "exists already and is running" in errors
    assert docker_api.inspect_container(name)["State"]["StartedAt"] == before


async def test_a_foreign_container_with_the_name_is_not_touched(docker_api, made, python_image):
    file, name = made
    docker_api.create_container(python_image, ["true"], name=name)
    code, _, errors = await launch(file)
    assert code == 1
    assert "exists, and this exporter did not create it" in errors


async def test_a_port_that_is_taken_is_named_and_leaves_nothing_behind(docker_api, made, free_port):
    file, name = made
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", free_port)
    async with server:
        code, _, errors = await launch(file)
    assert code == 1
    assert "Another process or container uses the port." in errors
    assert str(free_port) in errors
    with pytest.raises(docker.errors.NotFound):
        docker_api.inspect_container(name)


async def test_without_docker_it_names_the_host(made):
    file, _ = made
    code, _, errors = await launch(
        file, "--set", "targets[0].container.docker_host=unix:///no/sock"
    )
    assert code == 1
    assert "unix:///no/sock" in errors
