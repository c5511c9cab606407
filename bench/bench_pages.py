"""The time of a /metrics page with 1, 100 and 1,000 targets: the whole page, and one target's.

Another process, on its own core, serves the pages. Each target has everything: a session with a
control at each turn, a scrape of its engine, its loops. A client asks repeatedly over one
connection. The time is the client's. The processor time is the server's, including reading the
request and writing the answer.
"""

from __future__ import annotations

import http.client
import sys
import time

from figures import Figure, percentile_99
from processes import HERE, cores, cpu_seconds, rss_mb, running

ONE_TARGET_GOAL_MS = 3.0
ASKED = 200  # of one target's page in a run
SECONDS_OF_WHOLE = 2.0  # for whole pages in a run: as many as come


def measure(counts: tuple[int, ...], runs: int, asked: int = ASKED) -> list[Figure]:
    made = []
    for count in counts:
        mine, _ = cores()
        with running([sys.executable, str(HERE / "published.py"), str(count)], on=mine) as server:
            if server.stdout is None:
                raise AssertionError("it has a pipe")
            port = int(server.stdout.readline())
            made += figures_of(port, server.pid, count, runs, asked)
    return made


def figures_of(port: int, pid: int, count: int, runs: int, asked: int) -> list[Figure]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    one = f"/metrics?target=engine-{count - 1:04}"
    ask(connection, one), ask(connection, "/metrics")  # the first request of each is a warm-up
    tails, costs, whole_tails, whole_costs = [], [], [], []
    for _ in range(runs):
        before = cpu_seconds(pid)
        times = [ask(connection, one) for _ in range(asked)]
        tails.append(percentile_99(times) * 1e3)
        costs.append((cpu_seconds(pid) - before) / asked * 1e3)
        before = cpu_seconds(pid)
        whole = whole_pages(connection, min(asked, 20))
        whole_tails.append(max(whole) * 1e3)
        whole_costs.append((cpu_seconds(pid) - before) / len(whole) * 1e3)
    connection.close()
    known = f"{count:,} target{'s' if count > 1 else ''} known"
    return [
        Figure(
            f"one_p99_{count}",
            f"page of one target, p99, {known}",
            "ms",
            tuple(tails),
            ONE_TARGET_GOAL_MS,
        ),
        Figure(f"one_cpu_{count}", f"page of one target, processor, {known}", "ms", tuple(costs)),
        Figure(f"whole_{count}", f"page of all, slowest, {known}", "ms", tuple(whole_tails)),
        Figure(f"whole_cpu_{count}", f"page of all, processor, {known}", "ms", tuple(whole_costs)),
        Figure(f"published_rss_{count}", f"memory of the pages, {known}", "MB", (rss_mb(pid),)),
    ]


def full_history(counts: tuple[int, int], sessions: int = 50) -> list[Figure]:
    """Memory of one target's full history: the difference between two numbers of targets."""
    sizes = []
    for count in counts:
        command = [sys.executable, str(HERE / "published.py"), str(count)]
        with running([*command, "--history", str(sessions)]) as server:
            if server.stdout is None:
                raise AssertionError("it has a pipe")
            server.stdout.readline()
            sizes.append(rss_mb(server.pid))
    each = (sizes[1] - sizes[0]) / (counts[1] - counts[0]) * 1e3
    title = f"memory of a target's pages and {sessions} sessions"
    return [Figure("history_kb", title, "kB", (each,))]


def whole_pages(connection: http.client.HTTPConnection, most: int) -> list[float]:
    began, times = time.monotonic(), list[float]()
    while len(times) < most and (not times or time.monotonic() - began < SECONDS_OF_WHOLE):
        times.append(ask(connection, "/metrics"))
    return times


def ask(connection: http.client.HTTPConnection, path: str) -> float:
    """Seconds until the whole page has arrived. Raises `RuntimeError` if the answer is no page."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{path}: {answer.status}")
    return time.perf_counter() - began
