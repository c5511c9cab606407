"""A fleet with real loops, over simulated engines, and all that it publishes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from samples_page import ClientLibraryFamilies

from exporter.clock import SystemClock
from exporter.config import ProbeSettings, ScrapeSettings, Target
from exporter.daemon.fleet import Fleet
from exporter.daemon.rules_file import RulesFile
from exporter.daemon.shared_settings import SharedSettings, shared_settings_of
from exporter.daemon.target_context import TargetContext
from exporter.metrics.history import History
from exporter.metrics.store import Metrics
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from prometheus_client.samples import Sample

    from exporter.loops import Loop, LoopHeartbeat

PATIENCE = 30.0  # seconds; a bound for what takes a fraction of one


def shared(**probe: Any) -> SharedSettings:
    """Sessions and readings in quick succession."""
    options: dict[str, Any] = {
        "interval_seconds": 1.0,
        "jitter_ratio": 0.0,
        "tokens_per_hour": 0,
        "heartbeat_interval_seconds": 0,
        "max_cache_turnover_per_hour": 0,
        "control_ratio": 0.0,
        "retention_gaps_seconds": (),
        "isolation_interval_seconds": 0.0,
    }
    scrape = ScrapeSettings(interval_seconds=0.2, timeout_seconds=0.2)
    return shared_settings_of(ProbeSettings(**(options | probe)), scrape)


def target(name: str, url: str, **more: Any) -> Target:
    return Target(name=name, url=url, **more)


class Bench:
    """A fleet and what it says."""

    def __init__(self, rules: RulesFile | None = None) -> None:
        self.metrics = Metrics()
        self.history = History()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.group: asyncio.TaskGroup | None = None
        context = TargetContext(
            SystemClock(), self.metrics, self.history, self._spawn, rules=rules or RulesFile()
        )
        self.fleet = Fleet(shared(), context)

    def _spawn(self, heartbeat: LoopHeartbeat, loop: Loop) -> asyncio.Task[None]:
        assert self.group is not None
        name = heartbeat.name
        self.tasks[name] = self.group.create_task(loop(), name=name)
        return self.tasks[name]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of that name with these labels; None where there is none."""
        wanted = labels.items()
        found = [
            sample.value
            for sample in self._samples()
            if sample.name == name and wanted <= sample.labels.items()
        ]
        return sum(found) if found else None

    def _samples(self) -> list[Sample]:
        return [
            each
            for family in ClientLibraryFamilies(self.metrics).collect()
            for each in family.samples
        ]

    def series_of(self, name: str) -> list[str]:
        """Every series that speaks of a target or of one of its loops."""
        return [
            f"{sample.name}{sample.labels}"
            for sample in self._samples()
            if sample.labels.get("target") == name
            or sample.labels.get("loop", "").endswith(f":{name}")
        ]

    def loops(self) -> set[str]:
        """The loops that run."""
        return {name for name, task in self.tasks.items() if not task.done()}

    async def until(self, what: str, true: Callable[[], Any]) -> None:
        give_up = asyncio.get_running_loop().time() + PATIENCE
        while not true():
            if asyncio.get_running_loop().time() > give_up:
                pytest.fail(f"not within {PATIENCE:g} s: {what}")
            await asyncio.sleep(0.02)

    async def sessions_of(self, name: str, count: int) -> None:
        """Wait until that many sessions of a target have ended, and it was read."""
        await self.until(
            f"{count} sessions of {name}",
            lambda: (
                (self.value("vllm_probe_sessions_total", target=name) or 0) >= count
                and self.value("vllm_engine_up", target=name) is not None
            ),
        )


@contextlib.asynccontextmanager
async def fleet_of(rules: RulesFile | None = None) -> AsyncIterator[Bench]:
    bench = Bench(rules)
    async with asyncio.TaskGroup() as group:
        bench.group = group
        try:
            yield bench
        finally:
            await bench.fleet.stop()
            await bench.fleet.close()


def simulator(**settings: Any) -> Simulator:
    return Simulator(SimulatorSettings(**{"port": 0, "time_scale": 0.0, **settings}))
