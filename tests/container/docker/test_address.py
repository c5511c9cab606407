"""A container that is up at another address than the target's url: refused, or named; left alone.

The simulator is in the container, so that a session shows when the address is fixed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import docker.errors
import pytest
from supervised_daemon import free_port, supervised

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[3]
CHECKS = 12  # failed checks of /health; a restart would have come long before


class Simulated:
    """A target with a container that runs the simulator of this checkout."""

    def __init__(self, folder: Path, docker_api, docker_host: str, image: str) -> None:
        self.name = f"vce-test-{secrets.token_hex(6)}"
        self.port = free_port()
        self.api = docker_api
        self.file = folder / "exporter.toml"
        self._facts = {
            "name": self.name,
            "image": image,
            "command": ["python3", "-m", "exporter", "simulate", "--host", "0.0.0.0"],  # noqa: S104
            "environment": {"PYTHONPATH": "/checkout:/packages", "PYTHONDONTWRITEBYTECODE": "1"},
            "mounts": [
                f"{ROOT}:/checkout:ro",
                f"{sysconfig.get_path('purelib')}:/packages:ro",
            ],
            "gpus": 0,
            "host_port": self.port,
            "shm_size": "64m",
            "hf_cache": "none",
            "vllm_cache": "none",
            "health_interval_seconds": 0.5,
            "stop_grace_seconds": 2,
            "docker_host": docker_host,
        }

    def write(self, url: str, **facts: object) -> Path:
        told = "\n".join(
            f"{key} = {_toml(value)}" for key, value in {**self._facts, **facts}.items()
        )
        self.file.write_text(
            "probe.interval_seconds = 3600\nscrape.interval_seconds = 1\n"
            f"scrape.timeout_seconds = 1\n[[targets]]\nname = '{self.name}'\nmode = 'managed'\n"
            f"url = '{url}'\n[targets.container]\n{told}\n"
        )
        return self.file

    def inspect(self):
        return self.api.inspect_container(self.name)

    def run(self) -> tuple[str, str]:
        seen = self.inspect()
        return seen["Id"], seen["State"]["StartedAt"]

    def remove(self) -> None:
        with suppress(docker.errors.NotFound):
            self.api.remove_container(self.name, force=True, v=True)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {json.dumps(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def gateway_of(api) -> str:
    (config,) = api.inspect_network("bridge")["IPAM"]["Config"]
    return config["Gateway"]


@pytest.fixture
def simulated(tmp_path, docker_api, docker_host, python_image):
    made = Simulated(tmp_path, docker_api, docker_host, python_image)
    yield made
    made.remove()


def test_a_wrong_port_of_this_machine_is_refused(simulated):
    config = simulated.write(f"http://127.0.0.1:{free_port()}")
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "run", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "host_port" in done.stderr
    assert "url" in done.stderr


@pytest.mark.parametrize("way", ["host name", "scheme", "network", "port"])
async def test_a_wrong_address_is_diagnosed_and_fixed_by_a_reload(simulated, docker_network, way):
    facts = {"network": docker_network, "host_port": 0} if way == "network" else {}
    wrong = {
        "host name": f"http://no-such-engine.invalid:{simulated.port}",
        "scheme": f"https://127.0.0.1:{simulated.port}",
        # Known within that network only, and this daemon is not in it.
        "network": f"http://{simulated.name}:8000",
        # This machine's own address in Docker's network: no configuration can know that it is one.
        "port": f"http://{gateway_of(simulated.api)}:{free_port()}",
    }[way]
    config = simulated.write(wrong, **facts)
    async with supervised(config) as daemon:
        named = await daemon.until("the address is named", lambda page: page.cause == "address")
        assert named.state == "unhealthy"
        run = simulated.run()
        await daemon.until(
            "it was looked at often enough for three restarts",
            lambda page: page.count("vllm_container_health_failures_total") >= CHECKS,
        )
        assert simulated.run() == run, "it runs as it was started"
        assert daemon.now.count("vllm_container_restarts_total") == 0
        assert daemon.states == ["creating", "starting", "unhealthy"]

        right = f"http://127.0.0.1:{simulated.port}"
        if way == "network":
            (network,) = simulated.inspect()["NetworkSettings"]["Networks"].values()
            right = f"http://{network['IPAddress']}:8000"
        simulated.write(right, **facts)
        daemon.process.send_signal(signal.SIGHUP)
        fixed = await daemon.until(
            "a session is played", lambda page: page.value("vllm_probe_up") == 1
        )
        assert fixed.state == "ready"
        assert fixed.cause is None
        assert simulated.run() == run
        assert daemon.now.count("vllm_container_restarts_total") == 0
    await asyncio.to_thread(simulated.remove)
