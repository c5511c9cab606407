"""What one scrape and one probe turn cost the exporter, in milliseconds of processor time.

The engine is SIMULATED and runs in another process, at a tenth of its usual times. What is counted
is this process: the client, the reading of the page, the judging of the turn, and the event loop.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from figures import Figure
from processes import HERE, cores, running
from published import bench_runner, bench_scraper

from exporter.engine.client import EngineClient

SCRAPES = 100


def measure(runs: int, scrapes: int = SCRAPES) -> list[Figure]:
    _, others = cores()
    command = [sys.executable, str(HERE / "engines.py"), "1", "--time-scale", "0.1"]
    with running(command, on=others) as engines:
        if engines.stdout is None:
            raise AssertionError("it has a pipe")
        url = engines.stdout.readline().decode().strip()
        scrape, turn = uvloop.run(costs(url, runs, scrapes))
    return [
        Figure("cpu_scrape", "processor time of one scrape", "ms", tuple(scrape)),
        Figure("cpu_turn", "processor time of one probe turn", "ms", tuple(turn)),
    ]


async def costs(url: str, runs: int, scrapes: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each run; a first run of each warms up and is left out."""
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
