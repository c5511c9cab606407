"""Simulated servers of every kind, and what the commands and the daemon say of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import urllib.request
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from commands import PATIENCE, run_command, simulated_engine
from prometheus_client.parser import text_string_to_metric_families

from exporter import config, logs
from exporter.clock import SystemClock
from exporter.daemon.app import Daemon
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.server import SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from commands import LoopThread, Result

    from exporter.clock import Clock
    from exporter.simulator.server import Simulator

RESTS = {  # the servers that say of themselves that they rest, and what they say
    "asleep": "asleep",
    "paused": "paused",
    "paused-stream": "paused",
    "paused-waits": "paused",
    "scaling": "scaling",
}
RESTING = (*RESTS, "hung-queue")  # they answer no request


def model_of(name: str) -> dict[str, str]:
    """The adapter where a server has one; else the first that is served."""
    return {"model": "simulated-lora"} if name == "lora" else {}


class EverLater(SystemClock):
    """A clock that is a second later each time it is read, as between the turns of a session."""

    def __init__(self) -> None:
        self._reads = 0

    def time(self) -> float:
        self._reads += 1
        return super().time() + self._reads


@contextlib.contextmanager
def serving(loop: LoopThread, name: str, **changed: Any) -> Iterator[Simulator]:
    """A server of that kind, which answers at once."""
    given = SimulatorSettings(**{"port": 0, "time_scale": 0.0, **changed})
    clock = EverLater() if name == "clock" else None
    with simulated_engine(loop, settings_like(name, given), clock) as simulator:
        yield simulator


class Said:
    """What `check` and `probe` say of a kind of server, each of a server that is new."""

    def __init__(self, loop: LoopThread, name: str, **changed: Any) -> None:
        self._loop, self._name, self._changed = loop, name, changed

    def _run(self, command: str, *more: str) -> Result:
        with serving(self._loop, self._name, **self._changed) as simulator:
            chosen = [f"--{key}={value}" for key, value in model_of(self._name).items()]
            quick = ["--probe.first_token_timeout_seconds", "2"] if self._name in RESTING else []
            return run_command(command, "--url", simulator.url, *chosen, *quick, *more)

    @cached_property
    def check(self) -> Result:
        return self._run("check", "--json")

    @cached_property
    def probe(self) -> Result:
        return self._run("probe", "--json")

    @cached_property
    def cold_probe(self) -> Result:
        return self._run("probe", "--json", "--cold")

    @property
    def session(self) -> dict[str, Any]:
        return self.probe.json

    @property
    def tests(self) -> dict[str, dict[str, Any]]:
        return {test["name"]: test for test in self.check.json["tests"]}

    def verdicts(self, verdict: str) -> set[str]:
        return {name for name, test in self.tests.items() if test["verdict"] == verdict}

    @property
    def words(self) -> str:
        """All that both say, in one line."""
        told = (self.check.output, self.check.errors, self.probe.output, self.probe.errors)
        return " ".join(" ".join(told).split())


Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


class Page:
    """One answer of /metrics. It is parsed only where it is looked into."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def samples(self) -> Samples:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def value(self, family: str, **labels: str) -> float | None:
        """The sum of the samples with these labels; None where there is none."""
        wanted = set(labels.items())
        found = [
            v for (name, has), v in self.samples.items() if name == family and wanted <= set(has)
        ]
        return sum(found) if found else None

    def series(self, family: str, target: str) -> list[dict[str, str]]:
        """The labels of each sample."""
        found = (dict(has) for name, has in self.samples if name == family)
        return [labels for labels in found if labels.get("target") == target]

    def counted(self, family: str, target: str, label: str) -> set[str]:
        """The label's values whose counter is above 0."""
        return {
            labels[label] for labels in self.series(family, target) if self.value(family, **labels)
        }

    def count_of(self, family: str, target: str) -> float:
        """A counter's value without parsing the page, 0 where it is not there."""
        pattern = rf'^{family}\{{[^}}]*target="{re.escape(target)}"[^}}]*\}} (\S+)'
        return sum(float(value) for value in re.findall(pattern, self.text, re.MULTILINE))


@dataclass
class Watched:
    """A daemon's pages, one after the other, and what its API says at the end."""

    servers: dict[str, Simulator] = field(default_factory=dict)
    pages: list[Page] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)
    targets: list[dict[str, Any]] = field(default_factory=list)
    front: str = ""

    @property
    def last(self) -> Page:
        return self.pages[-1]


OFTEN = {
    "probe.interval_seconds": "1",
    "probe.jitter_ratio": "0",
    "probe.tokens_per_hour": "0",
    "probe.max_cache_turnover_per_hour": "0",
    "probe.control_ratio": "0.15",
    "probe.isolation_interval_seconds": "5",
    "probe.retention_gaps_seconds": "[1]",
    "probe.retention_interval_seconds": "60",
    # Sessions read /metrics themselves. A short deadline is one that a busy machine misses.
    "scrape.interval_seconds": "60",
    "scrape.timeout_seconds": "60",
    "listen": "127.0.0.1:0",
}


def watch(
    loop: LoopThread,
    names: Iterable[str],
    enough: Any,
    *,
    clock: Clock | None = None,
    **settings: str,
) -> Watched:
    """Run a daemon on servers of these kinds until `enough(seen)` holds, asked after each page."""
    with contextlib.ExitStack() as stack:
        seen = Watched({name: stack.enter_context(serving(loop, name)) for name in names})
        targets = [
            {"name": name, "url": server.url, **model_of(name)}
            for name, server in seen.servers.items()
        ]
        cli = OFTEN | settings | {"targets": json.dumps(targets), "log.level": "error"}
        loaded = config.load(config_file=None, cli=cli, environ={}, dotenv=None, secrets_dir=None)
        logs.configure("json", "error")
        loop.run(_watch(Daemon(loaded.settings, clock or SystemClock()), seen, enough))
        return seen


async def _watch(daemon: Daemon, seen: Watched, enough: Any) -> None:
    stop, started = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(daemon.run(stop, started.set))
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait(
            {running, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        try:
            while not seen.pages or not enough(seen):
                seen.pages.append(Page(await _read(daemon, "/metrics")))
                await asyncio.sleep(0.5)
            seen.sessions = json.loads(await _read(daemon, "/api/v1/sessions"))["sessions"]
            seen.targets = json.loads(await _read(daemon, "/api/v1/targets"))["targets"]
            seen.front = await _read(daemon, "/")
        finally:
            stop.set()
            await running


async def _read(daemon: Daemon, path: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(daemon.url + path, timeout=60) as answer:
            text: str = answer.read().decode()
            return text

    return await asyncio.to_thread(read)
