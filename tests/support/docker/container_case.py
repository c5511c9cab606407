"""A managed container with a stand-in for vLLM in it, for tests of the supervising daemon."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.request
from contextlib import suppress
from pathlib import Path

import docker.errors
from supervised_daemon import free_port

STAND_IN = (Path(__file__).parents[2] / "container" / "stand_in_server.py").read_text().strip()
FIRST_DELAY = 2.0  # seconds from a first failure to the next start


class Case:
    """One target with a name, a port and a container of its own."""

    def __init__(self, folder, docker_api, image, docker_host):
        self.name = f"vce-test-{secrets.token_hex(6)}"
        self.port = free_port()
        self.api = docker_api
        self._folder = folder
        self._facts = {
            "name": self.name,
            "image": image,
            "command": ["python3", "-u", "-c", STAND_IN],
            "gpus": 0,
            "host_port": self.port,
            "shm_size": "64m",
            "hf_cache": "none",
            "vllm_cache": "none",
            "health_interval_seconds": 1,
            "health_timeout_seconds": 1,
            "stop_grace_seconds": 2,
            "docker_host": docker_host,
        }

    def config(self, *, probe_seconds: float = 3600, **facts) -> Path:
        """The exporter makes the container."""
        return self._write("mode = 'managed'", probe_seconds, self._facts | facts)

    def attached_config(self, *, docker_host: str, **facts) -> Path:
        """The container is there already, by that name; see `make`."""
        kept = ("name", "health_interval_seconds", "health_timeout_seconds", "stop_grace_seconds")
        facts |= {key: self._facts[key] for key in kept} | {"docker_host": docker_host}
        target = f"mode = 'attached'\nurl = 'http://127.0.0.1:{self.port}'"
        return self._write(target, 3600, facts)

    def make(self) -> None:
        """Create and start the container as another tool would."""
        self.api.create_container(
            self._facts["image"],
            self._facts["command"],
            name=self.name,
            ports=[8000],
            host_config=self.api.create_host_config(port_bindings={8000: ("127.0.0.1", self.port)}),
        )
        self.api.start(self.name)

    def _write(self, target: str, probe_seconds: float, facts) -> Path:
        file = self._folder / "exporter.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in facts.items()]
        file.write_text(
            f"probe.interval_seconds = {probe_seconds}\n"
            f"[[targets]]\nname = '{self.name}'\n{target}\n"
            f"[targets.container.backoff]\ninitial_seconds = {FIRST_DELAY}\njitter_ratio = 0\n"
            "[targets.container]\n" + "\n".join(lines)
        )
        return file

    def inspect(self):
        return self.api.inspect_container(self.name)

    async def ask(self, path: str) -> None:
        """Ask the server in the container for something; it may die of it."""
        with suppress(OSError):
            await asyncio.to_thread(
                urllib.request.urlopen, f"http://127.0.0.1:{self.port}{path}", timeout=10
            )

    def remove(self) -> None:
        with suppress(docker.errors.NotFound):
            self.api.remove_container(self.name, force=True, v=True)
