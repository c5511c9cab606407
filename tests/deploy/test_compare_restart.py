"""`compare --restart-without-caching` on a real Docker Engine, with the simulator in a container."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys

import pytest
from supervised_daemon import free_port

pytestmark = pytest.mark.docker

PATIENCE = 240.0  # seconds; a bound for what takes twenty


class Engine:
    """A managed target with a unique name and port."""

    def __init__(self, folder, image):
        self.name = f"vce-test-{secrets.token_hex(6)}"
        self.port = free_port()
        self.file = folder / "exporter.toml"
        self.image = image
        self.configure("simulate", "--host", "0.0.0.0")  # noqa: S104 - within a container

    def configure(self, *command: str) -> None:
        facts = {
            "name": self.name,
            "image": self.image,
            "command": list(command),
            "gpus": 0,
            "host_port": self.port,
            "shm_size": "64m",
            "hf_cache": "none",
            "vllm_cache": "none",
            "health_interval_seconds": 0.5,
            "stop_grace_seconds": 2,
        }
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in facts.items())
        self.file.write_text(
            f"[probe]\nmax_tokens = 4\n[[targets]]\nname = '{self.name}'\nmode = 'managed'\n"
            f"[targets.container]\n{lines}\n"
        )

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "compare", "--restart-without-caching"),
            *("--config", str(self.file), "--json", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )

    async def compare(self, *arguments: str) -> tuple[int, str, str]:
        process = await self.start(*arguments)
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
        return process.returncode or 0, output.decode(), errors.decode()

    def containers(self) -> list[str]:
        """The names of this engine's containers, running or not."""
        listed = docker("ps", "-a", "--filter", f"name={self.name}", "--format", "{{.Names}}")
        return listed.split()


def docker(*words: str) -> str:
    return subprocess.run(
        ["docker", *words], capture_output=True, text=True, check=True, timeout=120
    ).stdout


@pytest.fixture
def engine(tmp_path, image):
    one = Engine(tmp_path, image)
    yield one
    for name in one.containers():
        docker("rm", "-f", name)


async def test_one_engine_runs_with_and_without_its_cache_and_is_removed(engine):
    code, output, errors = await engine.compare("--sessions", "2")
    assert code == 0, errors
    told = json.loads(output)
    on, off = told["sides"]
    assert (on["name"], off["name"]) == ("caching", "no caching")
    assert on["spreads"]["hit_ratio"]["median"] > 0.8
    assert off["spreads"]["hit_ratio"]["median"] == 0
    assert errors.count(f"container {engine.name}-compare: ready") == 2
    assert "not played in turn" in " ".join(told["notes"])
    assert engine.containers() == []


async def test_a_running_container_is_named_and_not_touched(engine):
    docker("run", "-d", "--name", engine.name, "--entrypoint", "sleep", engine.image, "600")
    code, output, errors = await engine.compare()
    assert (code, output) == (1, "")
    assert f"the container {engine.name} runs (this command did not create it" in errors
    state = docker("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", engine.name)
    assert state.split() == ["true", "0"]
    assert engine.containers() == [engine.name]


async def test_an_engine_that_does_not_start_is_diagnosed_and_removed(engine):
    engine.configure("simulate", "--host", "0.0.0.0", "--block-size", "none")  # noqa: S104
    code, output, errors = await engine.compare()
    assert (code, output) == (1, "")
    assert f"the container {engine.name}-compare did not become ready" in errors
    assert engine.containers() == []


async def test_ctrl_c_removes_the_container(engine):
    process = await engine.start("--sessions", "900")
    seen = b""
    while b"session 1" not in seen:
        line = await asyncio.wait_for(process.stderr.readline(), PATIENCE)
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 130, errors
    assert output == b""
    assert b"there is nothing to show" in errors
    assert engine.containers() == []
