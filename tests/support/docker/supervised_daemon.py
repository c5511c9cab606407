"""The daemon as a process that supervises one container, and a stopwatch on what it publishes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Page:
    """One reading of /metrics."""

    at: float
    samples: list[tuple[str, dict[str, str], float]]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of that name with these labels; None where there is none."""
        found = [
            value
            for sample, has, value in self.samples
            if sample == name and labels.items() <= has.items()
        ]
        return sum(found) if found else None

    @property
    def state(self) -> str | None:
        return self._label_at_one("vllm_container_state", "state")

    @property
    def cause(self) -> str | None:
        return self._label_at_one("vllm_container_diagnosis", "reason")

    def count(self, name: str, **labels: str) -> float:
        return self.value(name, **labels) or 0.0

    def _label_at_one(self, name: str, label: str) -> str | None:
        found = [has[label] for sample, has, value in self.samples if (sample, value) == (name, 1)]
        return found[0] if found else None


@dataclass
class SupervisedDaemon:
    """`pages` are readings of /metrics, ten in a second, for as long as it runs."""

    url: str
    process: asyncio.subprocess.Process
    log: Path
    fetch: Callable[[str], bytes]
    pages: list[Page] = field(default_factory=list)

    async def get(self, path: str) -> bytes | None:
        """A body; None where nothing answers or the status is no success."""
        try:
            return await asyncio.to_thread(self.fetch, self.url + path)
        except OSError:
            return None

    async def watch(self) -> None:
        while True:
            page = await self.get("/metrics")
            if page is not None:
                self.pages.append(Page(time.monotonic(), _samples(page.decode())))
            await asyncio.sleep(_LOOK_SECONDS)

    @property
    def now(self) -> Page:
        return self.pages[-1]

    async def until(self, what: str, true: Callable[[Page], Any], patience: float = 60.0) -> Page:
        """The first reading from now on for which `true` holds."""
        looked_at = max(0, len(self.pages) - 1)
        give_up = time.monotonic() + patience
        while True:
            for page in self.pages[looked_at:]:
                if true(page):
                    return page
            looked_at = len(self.pages)
            if time.monotonic() > give_up or self.process.returncode is not None:
                pytest.fail(f"not within {patience:g} s: {what}\n{self._tale()}")
            await asyncio.sleep(_LOOK_SECONDS / 2)

    async def until_state(self, state: str, patience: float = 60.0) -> Page:
        return await self.until(f"state {state}", lambda page: page.state == state, patience)

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events() if line.get("event") == event]

    @property
    def states(self) -> list[str]:
        """Every state that it went through, by its log: some last for no reading of /metrics."""
        return [line["state"] for line in self.logged("container.state")]

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 30)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    def _tale(self) -> str:
        """For the message of a test that failed: what was published, and the log's end."""
        told = []
        for page in self.pages:
            line = f"{page.state} {page.cause}"
            if not told or not told[-1].endswith(line):
                told.append(f"{page.at - self.pages[0].at:.1f} s {line}")
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(
            [*told[-20:], *[line for line in lines if "container.log" not in line][-20:]]
        )


def _samples(page: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]


def fetch_here(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def supervised(
    config: Path, *, prefix: tuple[str, ...] = (), fetch: Callable[[str], bytes] = fetch_here
) -> AsyncIterator[SupervisedDaemon]:
    """Run the daemon on a TOML file. `prefix` goes before its command line."""
    port = free_port()
    log = config.with_suffix(f".{port}.log")
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(*prefix, sys.executable, "-m", "exporter", "run", "--config", str(config)),
            *("--listen", f"127.0.0.1:{port}", "--log.format", "json", "--log.level", "debug"),
            stderr=file,
            stdout=file,
            cwd=config.parent,
            env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        )
    daemon = SupervisedDaemon(f"http://127.0.0.1:{port}", process, log, fetch)
    watching = asyncio.create_task(daemon.watch())
    try:
        await daemon.until("the daemon publishes a state", lambda page: page.state is not None)
        yield daemon
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        if process.returncode is None:
            process.kill()
            await process.wait()
