"""A server of one profile, and what it says of one long prompt."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import aiohttp
from sim_client import AT_ONCE, Client

from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.server import Simulator, SimulatorSettings

LONG = [{"role": "user", "content": "one more word " * 600}]  # 1,200 tokens and a few
ASKED = {"messages": LONG, "max_tokens": 40, "ignore_eos": True}
PATIENCE = 20.0


@asynccontextmanager
async def like(name, **changed):
    """A server of that kind that answers at once, and a client for it."""
    settings = settings_like(name, SimulatorSettings(**(AT_ONCE | changed)))
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        async with Simulator(settings) as running:
            yield running, Client(session, running.url)


async def usage_of(client, **changed):
    events = await client.stream(**(ASKED | changed))
    return next(event["usage"] for event in events if "usage" in event)


async def cached_of(client, **changed):
    return (await usage_of(client, **changed))["prompt_tokens_details"]["cached_tokens"]
