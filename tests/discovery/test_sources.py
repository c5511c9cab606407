"""The whole daemon with a fake resolver: replicas, reloads, DNS failures."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import SimpleNamespace

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.clock import SystemClock
from exporter.config import Settings
from exporter.daemon.app import Daemon
from exporter.simulator.server import Simulator, SimulatorSettings

PATIENCE = 60.0  # seconds; enough for steps of a few seconds
HOST = "vllm.example"
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
AWAY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def names(monkeypatch):
    """Sets the answer for HOST; the system's resolver answers for other names."""
    told = SimpleNamespace(says=[])
    system = socket.getaddrinfo

    def ask(host, port, *rest, **more):
        if host != HOST:
            return system(host, port, *rest, **more)
        if isinstance(told.says, Exception):
            raise told.says
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in told.says]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    return told


@pytest.fixture
async def engines():
    """Simulated engines at three addresses of this machine, on one port. Returns the port."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(engine("127.0.0.2", 0))
        port = int(first.url.rpartition(":")[2])
        for host in ("127.0.0.3", "127.0.0.4"):
            await stack.enter_async_context(engine(host, port))
        yield port


def engine(host: str, port: int) -> Simulator:
    return Simulator(SimulatorSettings(host=host, port=port, time_scale=0.0))


def settings_of(port: int, *, dns=None, **more) -> Settings:
    source = {"name": "vllm", "host": HOST, "port": port, "refresh_seconds": 1}
    return Settings(
        listen="127.0.0.1:0",
        probe={
            "interval_seconds": 1,
            "tokens_per_hour": 0,
            "max_cache_turnover_per_hour": 0,
            "control_ratio": 0,
            "retention_gaps_seconds": [],
            "isolation_interval_seconds": 0,
        },
        scrape={"interval_seconds": 0.5, "timeout_seconds": 0.5},
        discovery={"dns": [source | {"gone_after_seconds": 0} | (dns or {})]},
        **more,
    )


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


async def test_a_new_replica_is_measured_and_a_removed_one_leaves_no_series(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    async with running(settings_of(engines)) as at:
        before = await at.until_measured("127.0.0.2", "127.0.0.3")
        names.says = ["127.0.0.4", "127.0.0.3"]
        after = await at.until_measured("127.0.0.3", "127.0.0.4")
        assert "127.0.0.2" not in await at.page()
        assert after["vllm-127.0.0.3"] >= before["vllm-127.0.0.3"]
        targets = await at.values("vllm_exporter_discovery_targets", "source")
        assert targets == {"dns:vllm": 2}


async def test_without_dns_all_targets_stay_and_a_deleted_name_removes_them(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    async with running(settings_of(engines)) as at:
        before = await at.until_measured("127.0.0.2", "127.0.0.3")
        names.says = AWAY
        await at.until_failed_looks(2)
        during = await at.until_measured("127.0.0.2", "127.0.0.3")
        assert all(during[name] >= count for name, count in before.items())
        names.says = GONE

        async def none_left() -> bool:
            return not await at.sessions()

        await at.until("all are retired", none_left)
        names.says = ["127.0.0.2"]
        await at.until_measured("127.0.0.2")


async def test_a_listed_target_keeps_its_name(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    listed = [{"name": "vllm-127.0.0.2", "url": f"http://127.0.0.4:{engines}"}]
    async with running(settings_of(engines, targets=listed)) as at:
        await at.until_measured("127.0.0.2", "127.0.0.3")
        page = await at.page()
        assert page.count("vllm_probe_up{") == 2


async def test_a_reload_keeps_unchanged_sources_and_stops_removed_ones(names, engines):
    names.says = ["127.0.0.2"]
    current = {"settings": settings_of(engines)}
    async with running(current["settings"], lambda: current["settings"]) as at:
        before = await at.until_measured("127.0.0.2")
        names.says = AWAY  # a restarted source would have no targets
        await at.reloaded()
        assert (await at.sessions())["vllm-127.0.0.2"] >= before["vllm-127.0.0.2"]

        current["settings"] = settings_of(engines, dns={"gone_after_seconds": 5})
        await at.reloaded()
        assert (await at.sessions())["vllm-127.0.0.2"] >= before["vllm-127.0.0.2"]

        names.says = ["127.0.0.3"]
        current["settings"] = settings_of(engines, dns={"name": "other"})
        await at.reloaded()
        assert "vllm-127.0.0.2" not in await at.page()
        assert "dns:vllm" not in await at.page()

        async def other() -> bool:
            return (await at.values("vllm_probe_up")).keys() == {"other-127.0.0.3"}

        await at.until("the new source's target is measured", other)

        names.says = ["127.0.0.2"]
        current["settings"] = current["settings"].model_copy(
            update={"discovery": type(current["settings"].discovery)()}
        )
        await at.reloaded()
        assert not await at.sessions()
        assert "discovery" not in await at.page()


async def test_a_source_with_changed_settings_keeps_its_targets(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    current = {"settings": settings_of(engines)}
    async with running(current["settings"], lambda: current["settings"]) as at:
        await at.until_measured("127.0.0.2", "127.0.0.3")
        names.says = AWAY
        await at.until_failed_looks(1)
        current["settings"] = settings_of(engines, dns={"gone_after_seconds": 300})
        await at.reloaded()
        names.says = ["127.0.0.3", "127.0.0.4"]
        await at.until_measured("127.0.0.2", "127.0.0.3", "127.0.0.4")
