"""A daemon whose targets are discovered, its page, and engines that can be found."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.clock import SystemClock
from exporter.daemon.app import Daemon
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from exporter.config import Settings

PATIENCE = 60.0  # seconds; enough for steps of a few seconds
OFTEN = {
    "listen": "127.0.0.1:0",
    "probe": {
        "interval_seconds": 1,
        "tokens_per_hour": 0,
        "max_cache_turnover_per_hour": 0,
        "control_ratio": 0,
        "retention_gaps_seconds": [],
        "isolation_interval_seconds": 0,
    },
    "scrape": {"interval_seconds": 0.5, "timeout_seconds": 0.5},
}
"""Settings with which a new target is measured within a second."""


def engine(host: str, port: int) -> Simulator:
    return Simulator(SimulatorSettings(host=host, port=port, time_scale=0.0))


@contextlib.asynccontextmanager
async def engines_at(first: str, *others: str):
    """Simulated engines at these addresses of this machine, on one port, which is given."""
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(engine(first, 0))
        port = int(one.url.rpartition(":")[2])
        for host in others:
            await stack.enter_async_context(engine(host, port))
        yield port


class Running:
    """A daemon and its page."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self._session = session

    async def page(self) -> str:
        async with self._session.get(f"{self.daemon.url}/metrics") as answer:
            return await answer.text()

    async def values(self, name: str, label: str = "target") -> dict[str, float]:
        return {
            sample.labels[label]: sample.value
            for family in text_string_to_metric_families(await self.page())
            for sample in family.samples
            if sample.name == name
        }

    async def sessions(self) -> dict[str, float]:
        return await self.values("vllm_probe_sessions_total")

    async def until(self, what: str, true) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not await true():
            if asyncio.get_running_loop().time() > deadline:
                pytest.fail(f"not within {PATIENCE:g} s: {what}; there are {await self.sessions()}")
            await asyncio.sleep(0.05)

    async def until_measured(self, *hosts: str) -> dict[str, float]:
        wanted = {f"vllm-{host}": 1.0 for host in hosts}

        async def measured() -> bool:
            return (
                await self.values("vllm_probe_up") == wanted == await self.values("vllm_engine_up")
            )

        await self.until(f"{hosts} are measured", measured)
        return await self.sessions()

    async def until_failed_looks(self, count: int) -> None:
        async def failed() -> bool:
            name = "vllm_exporter_discovery_failures_total"
            return (await self.values(name, "reason"))["temporary"] >= count

        await self.until(f"{count} looks failed", failed)

    async def reloaded(self) -> None:
        name = "vllm_exporter_config_reloads_total"
        before = await self.values(name, "outcome")
        self.daemon.request_reload()

        async def over() -> bool:
            return await self.values(name, "outcome") != before

        await self.until("the reload is over", over)


@contextlib.asynccontextmanager
async def running(settings: Settings, read_again=None):
    stop, started = asyncio.Event(), asyncio.Event()
    daemon = Daemon(settings, SystemClock(), read_again)
    task = asyncio.create_task(daemon.run(stop, started.set))
    await asyncio.wait({task, asyncio.create_task(started.wait())}, return_when="FIRST_COMPLETED")
    async with aiohttp.ClientSession() as session:
        try:
            yield Running(daemon, session)
        finally:
            stop.set()
            await task
