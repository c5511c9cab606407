"""Serves the pages of COUNT targets with full content: `python published.py COUNT`.

It plays one session and makes one scrape, both real, against a SIMULATED engine. Each target gets
copies; with `--history N`, N sessions each. It prints its port, then runs until its standard input
is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import pickle
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import uvloop

from exporter import logs
from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.scraper import Scraper
from exporter.engine.wire.request import Deadlines
from exporter.loops import LoopHeartbeat
from exporter.metrics.history import History
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.server import Simulator, SimulatorSettings
from exporter.web.server import HttpServer, create_app

if TYPE_CHECKING:
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult

MAX_TOKENS = 32
EVERY_PAGE = 1 << 30  # targets up to which all of them are on one page


def salts() -> str:
    salts.count += 1  # type: ignore[attr-defined]
    return f"salt-{salts.count}"  # type: ignore[attr-defined]


salts.count = 0  # type: ignore[attr-defined]


def bench_scraper(client: EngineClient) -> Scraper:
    """A scraper that is only asked."""
    unread, clock = TargetState("bench"), SystemClock()
    return Scraper(
        "bench",
        client,
        clock,
        interval_seconds=15,
        timeout_seconds=10,
        sink=unread,
        heartbeat=LoopHeartbeat("scrape:bench", unread.loops, clock),
    )


def bench_runner(client: EngineClient, scraper: Scraper, *, controls: float) -> SessionRunner:
    """Sessions as the daemon plays them, with a control for `controls` of their turns."""
    return SessionRunner(
        SessionPlan("bench", CODING_AGENT, MAX_TOKENS, Deadlines()),
        EngineRequests(client, scraper.refresh, SystemClock()),
        salts,
        control=ColdControl(controls, lambda: 0.5, salts),
    )


async def real_records() -> tuple[SessionResult, EngineView]:
    """A session with a control at each turn, and the scrape after it."""
    async with (
        Simulator(SimulatorSettings(port=0, time_scale=0.1)) as simulator,
        EngineClient(simulator.url) as client,
    ):
        scraper = bench_scraper(client)
        await scraper.refresh()
        session = await bench_runner(client, scraper, controls=1.0).play()
        view = await scraper.refresh()
    if session.failure is not None or view.snapshot is None:
        raise RuntimeError(f"no complete record to publish: {session.failure}")
    return session, view


def own_copy(session: SessionResult, target: str, started: float) -> SessionResult:
    """A copy that shares nothing with the original, like a measured one."""
    copy: SessionResult = pickle.loads(pickle.dumps(session))  # noqa: S301 - made a moment ago
    return replace(copy, target=target, started_time=started)


async def serve(count: int, sessions: int) -> None:
    session, view = await real_records()
    clock = SystemClock()
    metrics, history = Metrics(), History()
    metrics.limit_whole_page(EVERY_PAGE)
    for place in range(count):
        name = f"engine-{place:04}"
        target = TargetState(name, url=f"http://{name}:8000")
        metrics.add(target)
        target.engine_scraped(replace(view, target=name))
        for number in range(sessions):
            result = own_copy(session, name, session.started_time + 600 * number)
            target.session_finished(result)
            history.add(result)
        for loop in ("scrape", "probe", "retention", "isolation"):
            target.loops.ran(f"{loop}:{name}", clock.time())
    app = create_app(metrics=metrics, history=history, clock=clock)
    server = HttpServer(app)
    await server.start("127.0.0.1", 0)
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--history", type=int, default=1)
    options = parser.parse_args()
    logs.configure("console", "error")
    uvloop.run(serve(options.count, options.history))
