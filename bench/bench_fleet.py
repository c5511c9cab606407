"""The daemon with 1 to 5,000 targets: memory, processor time, and event-loop lag.

`vllm-cache-exporter run` measures SIMULATED engines, each with a cache of 500,000 tokens. It
scrapes each target every 15 s. Sessions and heartbeats come as a `Fleet` says; all other settings
have their defaults. The daemon has one core for itself; the engines and the client have the others.
The client reads the page of each target at an even pace, as Prometheus would. Several targets share
an engine, but each has its own address and connections.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

from bench_pages import ask
from figures import Figure, percentile_99
from processes import (
    HERE,
    cores,
    cpu_seconds,
    first_answer,
    free_port,
    page,
    rss_mb,
    running,
    value,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRAPE_SECONDS = 15
SERVERS, PROCESSES = 20, 2  # simulated engines per process, and processes
LAG_GOAL_MS, ONE_PAGE_GOAL_MS = 20.0, 3.0
RSS_GOALS_MB = {1: 70.0, 1000: 400.0, 5000: 600.0}  # by the number of targets


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many targets, and how often what comes to each of them, in seconds."""

    count: int
    sessions: float = 600
    heartbeats: float = 100  # the default
    pages: float = SCRAPE_SECONDS

    @property
    def known(self) -> str:
        return f"{self.count:,} target{'s' if self.count > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: from the first answer until it is measured, and how long. Each part gives one value;
    the parts give the spread.
    """

    settle: float
    measured: float
    part: float = 5.0


@dataclass(slots=True)
class Observed:
    """The measurements of one daemon, from the second round of scrapes on."""

    rss_mb: list[float] = field(default_factory=list)
    cpu_ratio: list[float] = field(default_factory=list)
    lag_ms: list[list[float]] = field(default_factory=list)  # of each part
    page_ms: list[list[float]] = field(default_factory=list)  # of each part
    start_lag_ms: list[float] = field(default_factory=list)
    scrapes_failed: float = 0.0
    sessions: float = 0.0
    sessions_failed: float = 0.0
    heartbeats: float = 0.0


def observe(fleet: Fleet, times: Times) -> Observed:
    """Run a daemon with such a fleet."""
    mine, others = cores()
    with ExitStack() as stack:
        urls = start_engines(stack, fleet.count, others)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, lag_file = free_port(), folder / "lag"
        config = folder / "exporter.toml"
        config.write_text(configuration(port, urls, fleet), "utf-8")
        command = [sys.executable, str(HERE / "watched_run.py"), str(lag_file)]
        with running([*command, "run", "--config", str(config)], on=mine, grace=60) as daemon:
            first_answer(port)
            time.sleep(times.settle)
            began = time.monotonic()
            seen = look(daemon.pid, port, fleet, times)
        wait_until(lag_file.exists)
        lags = [
            tuple(map(float, line.split())) for line in lag_file.read_text("utf-8").splitlines()
        ]
    seen.start_lag_ms = [lag for at, lag in lags if at < began]
    for part in range(len(seen.rss_mb)):
        start = began + part * times.part
        seen.lag_ms.append([lag for at, lag in lags if start <= at < start + times.part])
    return seen


def start_engines(stack: ExitStack, count: int, on: set[int]) -> list[str]:
    """The URLs of the engines, which run until the stack is closed."""
    each = max(1, min(SERVERS, count // PROCESSES))
    urls = []
    for _ in range(min(PROCESSES, count)):
        engines = stack.enter_context(
            # Lower priority than the client, whose waiting would otherwise count as the daemon's.
            running(["nice", "-n", "5", sys.executable, str(HERE / "engines.py"), str(each)], on=on)
        )
        if engines.stdout is None:
            raise AssertionError("it has a pipe")
        urls += [engines.stdout.readline().decode().strip() for _ in range(each)]
    return urls


def configuration(port: int, urls: Sequence[str], fleet: Fleet) -> str:
    head = f"""
        listen = "127.0.0.1:{port}"
        [log]
        level = "error"
        [scrape]
        interval_seconds = {SCRAPE_SECONDS}
        [probe]
        interval_seconds = {fleet.sessions}
        heartbeat_interval_seconds = {fleet.heartbeats}
    """
    targets = [
        f'[[targets]]\nname = "engine-{place:04}"\nurl = "{own_address(urls, place)}"\n'
        for place in range(fleet.count)
    ]
    return head + "\n" + "".join(targets)


def own_address(urls: Sequence[str], place: int) -> str:
    """A loopback address of its own, so that each target is another engine for the exporter."""
    number = place + 1
    host = f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return urls[place % len(urls)].replace("127.0.0.1", host)


def look(pid: int, port: int, fleet: Fleet, spent: Times) -> Observed:
    """Read the process at the end of each part, while a thread reads pages."""
    seen, stop = Observed(), threading.Event()
    times: list[tuple[float, float]] = []
    reader = threading.Thread(target=read_pages, args=(port, fleet, stop, times))
    reader.start()
    try:
        began, cpu = time.monotonic(), cpu_seconds(pid)
        for part in range(round(spent.measured / spent.part)):
            time.sleep(max(0.0, began + (part + 1) * spent.part - time.monotonic()))
            now = cpu_seconds(pid)
            seen.cpu_ratio.append((now - cpu) / spent.part)
            seen.rss_mb.append(rss_mb(pid))
            cpu = now
    finally:
        stop.set()
        reader.join()
    for part in range(len(seen.rss_mb)):
        start = began + part * spent.part
        seen.page_ms.append([took for at, took in times if start <= at < start + spent.part])
    tally(seen, port, fleet.count)
    return seen


def tally(seen: Observed, port: int, count: int) -> None:
    """Whether the daemon did its work, by the pages of at most a thousand targets."""
    for place in range(0, count, -(-count // 1000)):
        text = page(port, f"/metrics?target=engine-{place:04}")
        seen.scrapes_failed += value(text, "vllm_engine_up") == 0
        seen.sessions += value(text, "vllm_probe_sessions_total")
        seen.sessions_failed += value(text, "vllm_probe_session_failures_total")
        seen.heartbeats += value(text, "vllm_probe_heartbeats_total")


def read_pages(
    port: int, fleet: Fleet, stop: threading.Event, times: list[tuple[float, float]]
) -> None:
    """Every target's page once in `fleet.pages`, evenly; the time and milliseconds."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    every, began = fleet.pages / fleet.count, time.monotonic()
    place = 0
    while not stop.wait(max(0.0, began + place * every - time.monotonic())):
        at = time.monotonic()
        took = ask(connection, f"/metrics?target=engine-{place % fleet.count:04}")
        times.append((at, took * 1e3))
        place += 1
    connection.close()


def measure(fleet: Fleet, times: Times) -> list[Figure]:
    """Raises `RuntimeError` if the daemon did not do its work: then nothing was measured."""
    seen = observe(fleet, times)
    if seen.scrapes_failed or seen.sessions_failed or not seen.sessions + seen.heartbeats:
        raise RuntimeError(f"{fleet.known}: {seen}")
    return [*loop_figures(fleet, times, seen), *page_figures(fleet, seen)]


def loop_figures(fleet: Fleet, times: Times, seen: Observed) -> list[Figure]:
    """Memory, processor time and event-loop lag."""
    count, known = fleet.count, fleet.known
    goal = RSS_GOALS_MB.get(count)
    tails = tuple(percentile_99(part) for part in seen.lag_ms)
    longest = tuple(max(part) for part in seen.lag_ms)
    start = (percentile_99(seen.start_lag_ms),)
    first = f"first {times.settle:g} s"
    return [
        Figure(f"rss_{count}", f"memory, {known}", "MB", tuple(seen.rss_mb), goal),
        Figure(f"cpu_{count}", f"share of one core, {known}", "%", percent(seen.cpu_ratio)),
        Figure(f"lag_p99_{count}", f"event-loop lag, p99, {known}", "ms", tails, LAG_GOAL_MS),
        Figure(f"lag_max_{count}", f"event-loop lag, longest, {known}", "ms", longest),
        Figure(f"lag_start_p99_{count}", f"event-loop lag, p99, {known}, {first}", "ms", start),
    ]


def page_figures(fleet: Fleet, seen: Observed) -> list[Figure]:
    """None if too few pages were read for a percentile."""
    tails = tuple(percentile_99(part) for part in seen.page_ms if len(part) > 100)
    if not tails:
        return []
    title = f"page of one target, p99, while {fleet.known} are measured"
    return [Figure(f"page_p99_{fleet.count}", title, "ms", tails, ONE_PAGE_GOAL_MS)]


def percent(ratios: Sequence[float]) -> tuple[float, ...]:
    return tuple(ratio * 100 for ratio in ratios)


if __name__ == "__main__":
    from figures import as_text, rows

    count, settle, measured, *others = map(float, sys.argv[1:])
    figures = measure(Fleet(int(count), *others), Times(settle, measured))
    print(as_text(rows(figures, None)))
