"""The simulated vLLM of the soak, in another process; it answers as fast as it can.

Prints its URL and runs until its standard input is closed, so that it never outlives the soak.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop

from exporter import logs
from exporter.simulator.server import Simulator, SimulatorSettings


async def serve() -> None:
    settings = SimulatorSettings(port=0, time_scale=0.0, num_blocks=8192)
    async with Simulator(settings) as simulator:
        print(simulator.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    logs.configure("console", "error")
    # It restarts while it answers, and aiohttp logs each cut connection with a traceback.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    uvloop.run(serve())
