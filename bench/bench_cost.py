"""Processor time, in ms, of a scrape, a probe turn and the end of a session.

The engine is SIMULATED and runs in another process, at a tenth of its usual times. Only this
process counts: the client, the reading of the page, the judging of the turn, and the event loop.
The end of a session blocks the event loop once while it is published and stored, so it has a goal:
all other targets wait for it. The target has a full history and all the points of the prefill
cost's fit.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from figures import Figure
from processes import HERE, cores, running
from published import bench_runner, bench_scraper, own_copy, real_records

from exporter.engine.client.engine_client import EngineClient
from exporter.metrics.history import History
from exporter.metrics.state.target import TargetState

SCRAPES = 100
SESSIONS = 50  # the size of the history
SESSION_GOAL_MS = 1.0


def measure(runs: int, scrapes: int = SCRAPES) -> list[Figure]:
    _, others = cores()
    command = [sys.executable, str(HERE / "engines.py"), "1", "--time-scale", "0.1"]
    with running(command, on=others) as engines:
        if engines.stdout is None:
            raise AssertionError("it has a pipe")
        url = engines.stdout.readline().decode().strip()
        scrape, turn = uvloop.run(costs(url, runs, scrapes))
    finished = uvloop.run(finished_sessions(runs))
    return [
        Figure("cpu_scrape", "processor time of one scrape", "ms", tuple(scrape)),
        Figure("cpu_turn", "processor time of one probe turn", "ms", tuple(turn)),
        Figure(
            "cpu_session",
            f"processor time at the end of a session, {SESSIONS} before it",
            "ms",
            tuple(finished),
            SESSION_GOAL_MS,
        ),
    ]


async def costs(url: str, runs: int, scrapes: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each run; the first run is a warm-up and does not count."""
    async with EngineClient(url) as client:
        scraper = bench_scraper(client)
        runner = bench_runner(client, scraper, controls=0.0)
        of_scrape, of_turn = list[float](), list[float]()
        for run in range(runs + 1):
            before = time.process_time()
            for _ in range(scrapes):
                view = await scraper.refresh()
                if view.failure is not None:
                    raise RuntimeError(view.failure.detail)
            after = time.process_time()
            session = await runner.play()
            if session.failure is not None:
                raise RuntimeError(session.failure.detail)
            if run:
                of_scrape.append((after - before) / scrapes * 1e3)
                of_turn.append((time.process_time() - after) / len(session.turns) * 1e3)
            await asyncio.sleep(0)
        return of_scrape, of_turn


async def finished_sessions(runs: int) -> list[float]:
    """Milliseconds that the end of a session blocks the loop, after `SESSIONS` sessions."""
    session, view = await real_records()
    target, history, took = TargetState("bench"), History(SESSIONS), list[float]()
    target.engine_scraped(view)
    for number in range(SESSIONS + runs):
        result = own_copy(session, "bench", session.started_time + 60 * number)
        before = time.process_time()
        target.session_finished(result)
        history.add(result)
        took.append((time.process_time() - before) * 1e3)
    return took[SESSIONS:]
