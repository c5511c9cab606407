"""Docker, the exporter's image and the other images, for the tests that need them."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deploy_stack import PATIENCE, ROOT, run
from helm_chart import Helm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STACK_IMAGES = (
    "haproxy:3.2-alpine",
    "prom/prometheus:v3.5.3",
    "prom/alertmanager:v0.33.1",
    "grafana/grafana:12.3.0",
)


@pytest.fixture
def sources(tmp_path) -> Path:
    """The files that the package is built from, without git."""
    folder = tmp_path / "sources"
    for name in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE):
        source, copy = ROOT / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    return folder


@pytest.fixture(scope="session")
def release_tools(missing) -> Path:
    """The folder with the programs of requirements/release.txt."""
    folder = Path(__file__).parents[2] / ".venv-release" / "bin"
    return folder if (folder / "cyclonedx-py").exists() else missing("run `make release-tools`")


@pytest.fixture(scope="session")
def helm(release_tools, missing) -> Helm:
    """Helm's library, which is among the release tools on Linux on x86-64."""
    if not any(release_tools.parent.glob("lib/python*/site-packages/helm_python")):
        missing("the release tools have no Helm library: run `make release-tools` on x86-64")
    return Helm(release_tools / "python")


@pytest.fixture(scope="session")
def kubectl(missing) -> str:
    found = os.environ.get("KUBECTL") or shutil.which("kubectl")
    return found or missing("no kubectl: install it, or name it in KUBECTL")


@pytest.fixture(scope="session")
def compose(missing) -> str:
    """Skip the test unless `docker compose` works and a Docker Engine answers."""
    for words in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            subprocess.run(words, capture_output=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            missing(f"no Docker Engine with compose: {error}")
    return "docker compose"


@pytest.fixture(scope="session")
def have_image(compose, missing) -> Callable[[str], str]:
    """Skip a test if an image is neither here nor available."""

    def have(image: str) -> str:
        look = ["docker", "image", "inspect", image]
        if subprocess.run(look, capture_output=True, check=False).returncode:
            pull = subprocess.run(
                ["docker", "pull", "-q", image], capture_output=True, text=True, check=False
            )
            if pull.returncode:
                missing(f"the image {image} is not here and cannot be pulled: {pull.stderr}")
        return image

    return have


@pytest.fixture(scope="session")
def image(have_image) -> Iterator[str]:
    """The image of this checkout, with a name for this run; removed at the end."""
    have_image("python:3.11-slim")
    name = f"vce-test:{secrets.token_hex(6)}"
    run("docker", "build", "-q", "-t", name, ".", timeout=600)
    yield name
    run("docker", "image", "rm", "-f", name)


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    def some(count: int) -> list[int]:
        with ExitStack() as held:
            taken = [
                held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
            ]
            return [each.getsockname()[1] for each in taken]

    return some


@pytest.fixture(scope="session")
def stack_images(have_image) -> None:
    for name in STACK_IMAGES:
        have_image(name)


@pytest.fixture
def until_health(compose) -> Callable[[str, str], None]:
    """Wait until a container has this health in Docker."""

    def wait(container: str, wanted: str) -> None:
        deadline = time.monotonic() + PATIENCE
        seen = ""
        while time.monotonic() < deadline:
            seen = run("docker", "inspect", "-f", "{{json .State.Health}}", container)
            if f'"Status":"{wanted}"' in seen:
                return
            time.sleep(0.2)
        raise AssertionError(f"{container} is not {wanted}: {seen}")

    return wait
