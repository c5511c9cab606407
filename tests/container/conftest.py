"""A real Docker Engine for the tests that need one, and the removal of what they leave."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import docker.errors
import pytest
from container_case import Case
from docker_here import reach
from private_dockerd import PrivateDockerd, dockerd_program
from unsteady_docker import UnsteadyDocker

from exporter.container.decide.records import Launch
from exporter.container.docker.engine import DockerEngine, DockerLimits

RUN_LABEL = "io.vllm-cache-exporter.test-run"
PYTHON_IMAGE = os.environ.get("TEST_PYTHON_IMAGE", "python:3.11-slim")


@pytest.fixture(scope="session")
def docker_host() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


@pytest.fixture(scope="session")
def docker_api(docker_host, missing):
    """docker-py itself, for the faults that tests make by hand and for an independent look."""
    api = reach(lambda: docker.APIClient(docker_host, version="auto", timeout=60))
    if isinstance(api, str):
        missing(f"no Docker Engine answers at {docker_host}: {api}")
    yield api
    api.close()


@pytest.fixture(scope="session")
def run_label(docker_api):
    """The label `key=value` on everything that this test run makes. All of it goes at the end."""
    value = secrets.token_hex(6)
    label = f"{RUN_LABEL}={value}"
    yield label
    for container in docker_api.containers(all=True, filters={"label": label}):
        try:
            docker_api.remove_container(container["Id"], force=True, v=True)
        except docker.errors.APIError as exc:
            if exc.status_code not in {404, 409}:  # gone, or going
                raise
    for network in docker_api.networks(filters={"label": label}):
        docker_api.remove_network(network["Id"])


@pytest.fixture(scope="session")
def have_image(docker_api, missing):
    """Skip a test whose image is not here and cannot be pulled."""

    def have(image: str) -> str:
        try:
            docker_api.inspect_image(image)
        except docker.errors.ImageNotFound:
            try:
                for _ in docker_api.pull(image, stream=True):
                    pass
                docker_api.inspect_image(image)
            except docker.errors.APIError as exc:
                missing(f"the image {image} is not here and cannot be pulled: {exc}")
        return image

    return have


@pytest.fixture(scope="session")
def python_image(have_image):
    return have_image(PYTHON_IMAGE)


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.fixture(scope="session")
def docker_network(docker_api, run_label):
    key, _, value = run_label.partition("=")
    name = f"vce-test-{value}"
    docker_api.create_network(name, labels={key: value})
    return name


@pytest.fixture
async def engine(docker_host, docker_api):
    door = DockerEngine(docker_host, DockerLimits(query=30, change=60, pull=60))
    yield door
    await door.close()


@pytest.fixture
def launch_of(run_label, python_image):
    """Make a Launch that runs a Python script, labelled for the removal at the end."""

    def make(script: str, **changes) -> Launch:
        facts = {
            "name": f"vce-test-{secrets.token_hex(6)}",
            "image": python_image,
            "command": ("python3", "-u", "-c", script),
            "environment": {},
            "secret_environment": (),
            "labels": {},
            "mounts": (),
            "gpus": None,
            "ipc_host": False,
            "shm_bytes": None,
            "network": None,
            "host_ip": "127.0.0.1",
            "host_port": None,
        } | changes
        key, _, value = run_label.partition("=")
        facts["labels"] = {**facts["labels"], key: value}
        return Launch(**facts)

    return make


@pytest.fixture
def socket_folder():
    """A short path: a unix socket's may not be longer than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="vce") as folder:
        yield Path(folder)


@pytest.fixture
async def unsteady(docker_host, docker_api, socket_folder, missing):
    """A Docker socket in front of the real one, which can hang, cut and go away."""
    if not docker_host.startswith("unix://"):
        missing(f"this test needs a Docker Engine on a unix socket, not {docker_host}")
    proxy = UnsteadyDocker(socket_folder / "docker.sock", docker_host.removeprefix("unix://"))
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture(scope="session")
def image_tar(docker_api, python_image, tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "python.tar"
    with path.open("wb") as tar:
        for chunk in docker_api.get_image(python_image):
            tar.write(chunk)
    return path


@pytest.fixture(scope="session")
def private_dockerd(image_tar, missing):
    """Start a Docker Engine of a test's own, which has the Python image and may be restarted."""

    @contextmanager
    def start(*options: str, gpus: bool = False):
        program = dockerd_program()
        if program is None:
            missing("no dockerd to start a private Docker Engine with (TEST_DOCKERD)")
        if os.geteuid() != 0:
            pytest.skip("only root can start a private Docker Engine")
        bridge = Path("/sys/class/net/docker0")
        before = bridge.exists()
        with tempfile.TemporaryDirectory(prefix="vce", ignore_cleanup_errors=True) as folder:
            daemon = PrivateDockerd(program, Path(folder), *options, gpus=gpus)
            try:
                daemon.start()
                assert bridge.exists() == before, "it took the bridge of the machine's own engine"
                with closing(docker.APIClient(daemon.host, version="auto", timeout=60)) as api:
                    with image_tar.open("rb") as tar:
                        for _ in api.load_image(tar):
                            pass
                    yield daemon
                    for container in api.containers(all=True):
                        api.remove_container(container["Id"], force=True)
            finally:
                daemon.close()
                unmount_all_under(folder)

    return start


def unmount_all_under(folder):
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=True)


@pytest.fixture
def case(tmp_path, docker_api, python_image, docker_host):
    """A target with a name, a port and a container of its own, for a daemon to look after."""
    made = Case(tmp_path, docker_api, python_image, docker_host)
    yield made
    made.remove()
