"""What the recording proxy adds to the time to first token, beside a direct connection.

The server writes into its first chunk how long after the request's last byte it sent that chunk.
The rest of a client's time to first token is the way: direct, or through `capture`. Both take turns
in one run. The memory of `capture` is read after 1,000 and after 10,000 requests: it must not grow
with them.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from bench_https import RawClient
from bench_ttft import CROWD, server
from figures import Figure, percentile_99
from processes import EXPORTER, cores, free_port, rss_mb, running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_GOALS_MS = {1: 1.5, CROWD: 15.0}
"""The most that the median may grow, with one stream and with many."""


@contextmanager
def capture(url: str, file: Path) -> Iterator[tuple[int, int]]:
    """The port and the process id of a recording proxy in front of a server."""
    port = free_port()
    command = [*EXPORTER, "capture", "--url", url, "--listen", f"127.0.0.1:{port}"]
    with running([*command, "--out", str(file)], on=cores()[0]) as process:
        wait_until(lambda: _accepts(port))
        yield port, process.pid


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def _clients(port: int, count: int) -> list[RawClient]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(RawClient, "127.0.0.1", port) for _ in range(count)]
    return [client for _, client in made]


async def _added(direct: int, through: int, streams: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the way in each request: direct, and through the proxy."""
    clients = {
        "direct": await _clients(direct, streams),
        "capture": await _clients(through, streams),
    }
    found: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for name, group in clients.items():
            seconds = await asyncio.gather(*(client.error() for client in group))
            if number:  # the first round warms up
                found[name] += seconds
    return found


async def _send(port: int, requests: int) -> None:
    clients = await _clients(port, CROWD)
    for _ in range(-(-requests // CROWD)):
        await asyncio.gather(*(client.error() for client in clients))


def figures(rounds: int, crowd_rounds: int, requests: int) -> list[Figure]:
    """What the proxy adds with one stream and with many, and the growth of its memory."""
    made = []
    with (
        server() as direct,
        tempfile.TemporaryDirectory() as folder,
        capture(f"http://127.0.0.1:{direct}", Path(folder) / "requests.jsonl") as (port, process),
    ):
        for streams, count in ((1, rounds), (CROWD, crowd_rounds)):
            found = uvloop.run(_added(direct, port, streams, count))
            ms = {name: [each * 1e3 for each in values] for name, values in found.items()}
            base = statistics.median(ms["direct"])
            added = tuple(each - base for each in ms["capture"])
            name = f"{streams} stream{'s' if streams > 1 else ''}"
            title = f"time to first token added by capture, {name}"
            p99 = percentile_99(ms["capture"]) - percentile_99(ms["direct"])
            made += [
                Figure(f"capture_{streams}", title, "ms", added, _GOALS_MS[streams]),
                Figure(f"capture_p99_{streams}", f"{title}, p99 of both", "ms", (p99,)),
            ]
        uvloop.run(_send(port, requests // 10))
        before = rss_mb(process)
        uvloop.run(_send(port, requests))
        grown = rss_mb(process) - before
        title = f"memory that capture gains in {requests:,} requests"
        made.append(Figure("capture_memory", title, "MB", (grown,), 10.0))
    return made


if __name__ == "__main__":
    for figure in figures(rounds=200, crowd_rounds=10, requests=10_000):
        print(f"{figure.title}: {figure.median:.3g} {figure.unit}")
