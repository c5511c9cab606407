"""The daemon as a process of its own, as it runs for its users."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE = 60.0  # seconds; a bound for what takes a few


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Daemon:
    """One running `vllm-cache-exporter run`."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = process

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 while nothing listens."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()
        except OSError:
            return 0, ""

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample of /metrics by name and sorted labels."""
        _, page = await self.get("/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of that name that carry these labels; None where there is none."""
        wanted = set(labels.items())
        found = [
            value
            for (sample, has), value in (await self.samples()).items()
            if sample == name and wanted <= set(has)
        ]
        return sum(found) if found else None

    async def sessions(self) -> list[dict[str, Any]]:
        status, page = await self.get("/api/v1/sessions")
        return json.loads(page)["sessions"] if status == 200 else []

    async def until(self, what: str, true: Callable[[], Any]) -> None:
        """Wait until `await true()` is; fail with `what` and the log after PATIENCE."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not await true():
            if asyncio.get_running_loop().time() > deadline:
                pytest.fail(f"not within {PATIENCE:g} s: {what}")
            await asyncio.sleep(0.05)

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE)


@contextlib.asynccontextmanager
async def daemon_of(log: Path, *arguments: str, **environment: str) -> AsyncIterator[Daemon]:
    port = free_port()
    with log.open("w") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "run", "--listen", f"127.0.0.1:{port}"),
            *("--log.format", "json", *arguments),
            stderr=file,
            stdout=file,
            cwd=log.parent,
            env={"PATH": os.environ["PATH"], **environment},
        )
    daemon = Daemon(port, process)
    try:
        await daemon.until("the daemon listens", lambda: _listens(daemon))
        yield daemon
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _listens(daemon: Daemon) -> bool:
    if daemon.process.returncode is not None:
        return True
    try:  # it may want a password, or TLS
        _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.fixture
def daemon():
    return daemon_of
