"""A real Prometheus in a container on this machine's own network."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import urllib.request
from typing import TYPE_CHECKING, NoReturn

import docker
import docker.errors
import pytest
from docker_here import reach

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker.models.containers import Container

PROMETHEUS_IMAGE = "prom/prometheus:v3.5.3"


def leave_out(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_ready(url: str, container: Container, give_up: float) -> None:
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return
        container.reload()
        if container.status == "exited":
            break
        time.sleep(0.1)
    pytest.fail(f"Prometheus is not ready:\n{container.logs(tail=20).decode()}")


@contextlib.contextmanager
def prometheus(config: Path, give_up: float, rules: Path | None = None) -> Iterator[str]:
    """Run it with that file and folder, which everybody must be able to read. Yields its address.

    The folder is /rules.
    """
    volumes = {str(config): {"bind": "/config.yml", "mode": "ro"}}
    if rules is not None:
        volumes[str(rules)] = {"bind": "/rules", "mode": "ro"}
    client = reach(lambda: docker.from_env(timeout=60))
    if isinstance(client, str):
        leave_out(f"no Docker Engine answers: {client}")
    with contextlib.closing(client):
        try:
            client.images.get(PROMETHEUS_IMAGE)
        except docker.errors.ImageNotFound:
            try:
                client.images.pull(PROMETHEUS_IMAGE)
            except docker.errors.APIError as error:
                leave_out(f"the image {PROMETHEUS_IMAGE} is not here and not to be had: {error}")
        port = free_port()
        container = client.containers.run(
            PROMETHEUS_IMAGE,
            [
                "--config.file=/config.yml",
                "--storage.tsdb.path=/prometheus",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            network_mode="host",
            volumes=volumes,
            detach=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url, container, give_up)
            yield url
        finally:
            container.remove(force=True, v=True)
