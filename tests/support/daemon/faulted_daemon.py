"""The daemon as a process, watched while its engines, or its machine, misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stopwatch
from supervised_daemon import Page, fetch_here, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE = 120.0  # seconds; a bound for what takes a few
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class FaultedDaemon:
    """One running daemon. `readings` are (monotonic second, milliseconds, status) of /metrics."""

    url: str
    process: asyncio.subprocess.Process
    log: Path
    readings: list[tuple[float, float, int]] = field(default_factory=list)

    async def page(self) -> Page:
        body = await asyncio.to_thread(fetch_here, self.url + "/metrics")
        return Page(time.monotonic(), _samples(body.decode()))

    async def until(
        self, what: str, true: Callable[[Page], Any], patience: float = PATIENCE
    ) -> Page:
        """The first page for which `true` holds; where none is there, the daemon has failed."""
        give_up = time.monotonic() + patience
        while True:
            with contextlib.suppress(OSError):
                page = await self.page()
                if true(page):
                    return page
            if time.monotonic() > give_up or self.process.returncode is not None:
                raise AssertionError(f"not within {patience:g} s: {what}\n{self.tail()}")
            await asyncio.sleep(0.4)

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-20:])

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text(errors="replace").splitlines()
        logged = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in logged if line.get("event") == name]

    def milliseconds(self, since: float) -> tuple[float, float]:
        """The median and the worst reading of /metrics since then."""
        took = [ms for began, ms, _ in self.readings if began >= since]
        return (statistics.median(took), max(took)) if took else (math.nan, math.nan)

    def answered(self, since: float) -> int:
        """How many readings since then were answered."""
        return sum(1 for began, _, status in self.readings if began >= since and status == 200)

    def memory(self, kind: str) -> float:
        """MiB: "VmRSS" is what it has, "VmHWM" the most that it had since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


def _samples(page: str) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each line. prometheus_client's parser takes ten times as long, and
    these tests read pages of thousands of lines beside the daemon that they time.
    """
    found = []
    for line in page.splitlines():
        if not line.startswith("#"):
            sample = _SAMPLE.fullmatch(line)
            assert sample is not None, line
            labels = dict(_LABEL.findall(sample[2] or ""))
            found.append((sample[1], labels, float(sample[3])))
    return found


def absurdities(page: Page) -> list[str]:
    """Samples that cannot be true: not finite, negative, a ratio above 1, beyond all measure."""
    found = []
    for name, labels, value in page.samples:
        is_ratio = name.endswith("_ratio") and not name.endswith("_bucket")
        most = 1.0 if is_ratio else 1e12
        if not (math.isfinite(value) and 0 <= value <= most):
            found.append(f"{name}{labels} {value}")
    return found


def stale(page: Page, target: str) -> list[str]:
    """Values of a last session or of an engine that are there although it failed."""
    kept = {"vllm_engine_up", "vllm_engine_restarts_total", "vllm_engine_scrape_failures_total"}
    down = {part: page.value(f"vllm_{part}_up", target=target) == 0 for part in ("probe", "engine")}
    return [
        name
        for name, labels, _ in page.samples
        if labels.get("target") == target
        and (
            (down["probe"] and name.startswith("vllm_probe_turn_"))
            or (down["engine"] and name.startswith("vllm_engine_") and name not in kept)
        )
    ]


PROGRAM = (sys.executable, "-m", "exporter")


@contextlib.asynccontextmanager
async def faulted(
    config: Path, *, program: tuple[str, ...] = PROGRAM, log_to: str | None = None
) -> AsyncIterator[FaultedDaemon]:
    """Run the daemon on a TOML file that lets the system choose the port. With `log_to` the log
    goes there and not to a file that can be read, and a port is chosen beforehand.
    """
    written = config.with_suffix(".log")
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    port = 0 if log_to is None else free_port()
    with Path(log_to or written).open("wb") as file:  # noqa: ASYNC230 - a local file, at once
        process = await asyncio.create_subprocess_exec(
            *(*program, "run", "--config", str(config), "--log.format", "json"),
            *("--listen", f"127.0.0.1:{port}"),
            stderr=file,
            stdout=file,
            cwd=config.parent,
            env={**kept, "HOME": str(config.parent), "TMPDIR": str(config.parent)},
        )
    daemon = FaultedDaemon(f"http://127.0.0.1:{port}", process, written)
    watch: asyncio.subprocess.Process | None = None
    reading: asyncio.Task[None] | None = None
    try:
        if log_to is None:
            daemon.url = await _url(daemon)
        watch = await asyncio.create_subprocess_exec(
            *(sys.executable, stopwatch.__file__, f"{daemon.url}/metrics"),
            stdout=asyncio.subprocess.PIPE,
        )
        reading = asyncio.create_task(_read(watch, daemon))
        yield daemon
    finally:
        for each in (watch, process):
            if each is not None and each.returncode is None:
                each.kill()
                await each.wait()
        if reading is not None:
            await reading


async def _url(daemon: FaultedDaemon) -> str:
    give_up = time.monotonic() + PATIENCE
    while not (started := daemon.events("daemon.started")):
        if time.monotonic() > give_up or daemon.process.returncode is not None:
            raise AssertionError(f"the daemon did not start\n{daemon.tail()}")
        await asyncio.sleep(0.05)
    return str(started[0]["url"])


async def _read(watch: asyncio.subprocess.Process, daemon: FaultedDaemon) -> None:
    assert watch.stdout is not None
    # Where it was killed in the middle of a line, that one ends without its end.
    while (line := await watch.stdout.readline()).endswith(b"\n"):
        began, took, status = line.split()
        daemon.readings.append((float(began), float(took), int(status)))
