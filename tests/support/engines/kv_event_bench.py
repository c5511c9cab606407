"""Receives the KV events of a simulated or a real engine, as `run` does."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import TYPE_CHECKING

from recorded_sinks import RecordedLoop

from exporter.clock import SystemClock
from exporter.engine.events.feed import KvEventFeed
from exporter.engine.events.subscriber import KvEventSubscriber
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.target import TargetState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECONDS = 30.0


def free_ports(count: int) -> int:
    """The first of that many ports in a row that are free now."""
    for first in random.sample(range(20000, 32000), 1000):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise OSError


async def until(holds) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - conditions of many kinds
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def receiving(url: str, ranks: int = 1, *, wait: bool = True) -> AsyncIterator[KvEventFeed]:
    """A feed; with `wait`, one that is connected."""
    state, counted = TargetState("t"), RecordedLoop(may_fail=True)
    feed = KvEventFeed("t", url, state)
    heartbeat = LoopHeartbeat("kv_events:t", counted, SystemClock())
    task = asyncio.create_task(KvEventSubscriber(feed, heartbeat, lambda: ranks).run())
    try:
        await until(lambda: feed.connected or task.done() or not wait)
        yield feed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert counted.failures == 0


@contextlib.asynccontextmanager
async def receiving_events_of(at) -> AsyncIterator[KvEventFeed]:
    """The same for the simulator of a `Bench`; its sessions follow their blocks."""
    url = at.simulator.engine.kv_events_endpoint
    async with receiving(url, at.simulator.settings.engine_ranks) as feed:
        at.requests.kv_events = feed
        yield feed
