"""The engines that the contract tests run against: the simulator, and a real vLLM."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from exporter.simulator.server import Simulator, SimulatorSettings

sys.path.insert(0, str(Path(__file__).parent))

from wire_client import PATIENCE, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vllm_server import VllmServers

# The simulator with the meaning of each flag set of a real server (see vllm_server.FLAG_SETS).
_COMMON = {
    "port": 0,
    "model": "tiny",
    "num_blocks": 1024,
    "prefill_floor_seconds": 0.0,
    "prefill_seconds_per_token": 0.0,
    "decode_seconds_per_token": 0.002,
}
SIMULATED: dict[str, SimulatorSettings] = {
    "details32": SimulatorSettings(**_COMMON, block_size=32),
    "details128": SimulatorSettings(**_COMMON, block_size=128, enable_auto_tool_choice=False),
    "plain32": SimulatorSettings(
        **_COMMON, block_size=32, enable_auto_tool_choice=False, enable_prompt_tokens_details=False
    ),
    "noprefix32": SimulatorSettings(
        **_COMMON, block_size=32, enable_auto_tool_choice=False, enable_prefix_caching=False
    ),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test marked `engines("details32", …)` on both kinds of engine with those flags."""
    if "engine_url" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("engines")
    flag_sets = marker.args if marker else ("details32",)
    params = [
        pytest.param((kind, name), id=f"{kind}-{name}", marks=marks)
        for kind, marks in (("simulator", ()), ("vllm", pytest.mark.vllm))
        for name in flag_sets
    ]
    metafunc.parametrize("engine_url", params, indirect=True, scope="session")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "engines(*flag_sets): the servers that a test runs on")


@pytest.fixture(scope="session")
def simulators() -> Iterator[Simulators]:
    running = Simulators()
    yield running
    running.close()


@pytest.fixture(scope="session")
def engine_url(
    request: pytest.FixtureRequest, simulators: Simulators, vllm_servers: VllmServers
) -> str:
    kind, flag_set = request.param
    return simulators.get(flag_set) if kind == "simulator" else vllm_servers.get(flag_set)


@pytest.fixture
async def engine(engine_url: str) -> AsyncIterator[Wire]:
    """The engine under test, idle."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        async with session.get(f"{engine_url}/v1/models") as response:
            model = (await response.json())["data"][0]["id"]
        wire = Wire(session, engine_url, model)
        await wire.idle()
        yield wire


class Simulators:
    """Simulators in a thread with an event loop of its own, since each test has another loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._running: dict[str, Simulator] = {}

    def get(self, flag_set: str) -> str:
        if flag_set not in self._running:
            simulator = Simulator(SIMULATED[flag_set])
            asyncio.run_coroutine_threadsafe(simulator.start(), self._loop).result(PATIENCE)
            self._running[flag_set] = simulator
        return self._running[flag_set].url

    def close(self) -> None:
        for simulator in self._running.values():
            asyncio.run_coroutine_threadsafe(simulator.stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
