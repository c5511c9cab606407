"""The daemon with 1, 100 and 1,000 targets: memory, processor time, and event-loop lag.

`vllm-cache-exporter run` measures SIMULATED engines. It scrapes each target every 15 s and probes
it every 10 minutes; all other settings have their defaults. The daemon has one core for itself; the
engines and the client have the others. The client reads the page of each target every 15 s, as
Prometheus would. Several targets share an engine, but each has its own connections.
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

SCRAPE_SECONDS, PROBE_SECONDS = 15, 600
SERVERS, PROCESSES = 20, 2  # simulated engines per process, and processes
LAG_GOAL_MS, RSS_GOAL_MB, ONE_PAGE_GOAL_MS = 20.0, 400.0, 3.0
IDLE_GOAL_MB = 70.0
PART_SECONDS = 5.0
"""The length of one part of a measurement. Each part gives one value; the parts give the spread."""


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


def observe(count: int, seconds: float, settle: float, part_seconds: float) -> Observed:
    """Run a daemon with `count` targets for `settle` seconds, then measure for `seconds`."""
    mine, others = cores()
    with ExitStack() as stack:
        urls = start_engines(stack, count, others)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, lag_file = free_port(), folder / "lag"
        config = folder / "exporter.toml"
        config.write_text(configuration(port, urls, count), "utf-8")
        command = [sys.executable, str(HERE / "watched_run.py"), str(lag_file)]
        with running([*command, "run", "--config", str(config)], on=mine) as daemon:
            first_answer(port)
            wait_until(lambda: sessions(port, 0) > 0)
            time.sleep(settle)
            began = time.monotonic()
            seen = look(daemon.pid, port, count, round(seconds / part_seconds), part_seconds)
        wait_until(lag_file.exists)
        lags = [
            tuple(map(float, line.split())) for line in lag_file.read_text("utf-8").splitlines()
        ]
    seen.start_lag_ms = [lag for at, lag in lags if at < began]
    for part in range(len(seen.rss_mb)):
        start = began + part * part_seconds
        seen.lag_ms.append([lag for at, lag in lags if start <= at < start + part_seconds])
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


def configuration(port: int, urls: Sequence[str], count: int) -> str:
    head = f"""
        listen = "127.0.0.1:{port}"
        [log]
        level = "error"
        [scrape]
        interval_seconds = {SCRAPE_SECONDS}
        [probe]
        interval_seconds = {PROBE_SECONDS}
    """
    targets = [
        f'[[targets]]\nname = "engine-{place:04}"\nurl = "{urls[place % len(urls)]}"\n'
        for place in range(count)
    ]
    return head + "\n" + "".join(targets)


def look(pid: int, port: int, count: int, parts: int, part_seconds: float) -> Observed:
    """Read the process at the end of each part, while a thread reads pages."""
    seen, stop = Observed(), threading.Event()
    times: list[tuple[float, float]] = []
    reader = threading.Thread(target=read_pages, args=(port, count, stop, times))
    reader.start()
    try:
        began, cpu = time.monotonic(), cpu_seconds(pid)
        for part in range(parts):
            time.sleep(max(0.0, began + (part + 1) * part_seconds - time.monotonic()))
            now = cpu_seconds(pid)
            seen.cpu_ratio.append((now - cpu) / part_seconds)
            seen.rss_mb.append(rss_mb(pid))
            cpu = now
    finally:
        stop.set()
        reader.join()
    for part in range(len(seen.rss_mb)):
        start = began + part * part_seconds
        seen.page_ms.append([took for at, took in times if start <= at < start + part_seconds])
    tally(seen, port, count)
    return seen


def sessions(port: int, place: int) -> float:
    """How many sessions of that target have ended, successful or not."""
    text = page(port, f"/metrics?target=engine-{place:04}")
    return value(text, "vllm_probe_sessions_total")


def tally(seen: Observed, port: int, count: int) -> None:
    """Whether the daemon did its work."""
    for place in range(count):
        text = page(port, f"/metrics?target=engine-{place:04}")
        seen.scrapes_failed += value(text, "vllm_engine_up") == 0
        seen.sessions += value(text, "vllm_probe_sessions_total")
        seen.sessions_failed += value(text, "vllm_probe_session_failures_total")


def read_pages(
    port: int, count: int, stop: threading.Event, times: list[tuple[float, float]]
) -> None:
    """Every target's page once in each scrape interval, evenly; the time and milliseconds."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    every, began = SCRAPE_SECONDS / count, time.monotonic()
    place = 0
    while not stop.wait(max(0.0, began + place * every - time.monotonic())):
        at = time.monotonic()
        took = ask(connection, f"/metrics?target=engine-{place % count:04}")
        times.append((at, took * 1e3))
        place += 1
    connection.close()


def measure(
    count: int, seconds: float, settle: float, part_seconds: float = PART_SECONDS
) -> list[Figure]:
    """Raises `RuntimeError` if the daemon did not do its work: then nothing was measured."""
    seen = observe(count, seconds, settle, part_seconds)
    if seen.scrapes_failed or seen.sessions_failed or not seen.sessions:
        raise RuntimeError(f"{count} targets: {seen}")
    known = f"{count:,} target{'s' if count > 1 else ''}"
    made = [
        Figure(
            f"rss_{count}",
            f"memory, {known}",
            "MB",
            tuple(seen.rss_mb),
            RSS_GOAL_MB if count >= 1000 else IDLE_GOAL_MB if count == 1 else None,
        ),
        Figure(f"cpu_{count}", f"share of one core, {known}", "%", percent(seen.cpu_ratio)),
        Figure(
            f"lag_p99_{count}",
            f"event-loop lag, p99, {known}",
            "ms",
            tuple(percentile_99(part) for part in seen.lag_ms),
            LAG_GOAL_MS,
        ),
        Figure(
            f"lag_max_{count}",
            f"event-loop lag, longest, {known}",
            "ms",
            tuple(max(part) for part in seen.lag_ms),
        ),
        Figure(
            f"lag_start_p99_{count}",
            f"event-loop lag, p99, {known}, first {settle:g} s",
            "ms",
            (percentile_99(seen.start_lag_ms),),
        ),
    ]
    tails = [percentile_99(part) for part in seen.page_ms if len(part) > 100]
    if tails:
        title = f"page of one target, p99, while {known} are measured"
        made.append(Figure(f"page_p99_{count}", title, "ms", tuple(tails), ONE_PAGE_GOAL_MS))
    return made


def percent(ratios: Sequence[float]) -> tuple[float, ...]:
    return tuple(ratio * 100 for ratio in ratios)


if __name__ == "__main__":
    from figures import as_text, rows

    print(as_text(rows(measure(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])), None)))
