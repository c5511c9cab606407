"""Simulated engines in one process: `python engines.py COUNT`. Prints their URLs, one a line.

Runs until its standard input is closed, so that it never outlives the benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from contextlib import AsyncExitStack

import uvloop

from exporter import logs
from exporter.simulator.server import Simulator, SimulatorSettings


async def serve(count: int, time_scale: float) -> None:
    async with AsyncExitStack() as stack:
        for seed in range(count):
            settings = SimulatorSettings(
                host="0.0.0.0",  # noqa: S104 - each target has a loopback address of its own
                port=0,
                seed=seed,
                num_blocks=31_250,  # 500,000 tokens
                time_scale=time_scale,
            )
            simulator = await stack.enter_async_context(Simulator(settings))
            print(simulator.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    logs.configure("console", "error")
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # of clients that go
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--time-scale", type=float, default=1.0)
    options = parser.parse_args()
    uvloop.run(serve(options.count, options.time_scale))
