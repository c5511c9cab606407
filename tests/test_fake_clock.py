"""The fake clock keeps the promises that other tests lean on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from fake_clock import FakeClock

if TYPE_CHECKING:
    from exporter.clock import Clock


async def test_a_sleeper_wakes_when_its_time_has_come_and_not_before():
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(10.0))
    await clock.until_asleep()
    await clock.advance(9.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()
    assert clock.asleep == 0


async def test_one_advance_stops_at_every_sleep_on_its_way():
    clock = FakeClock(monotonic=0.0)
    woken_at: list[float] = []

    async def tick(clock: Clock) -> None:
        while True:
            await clock.sleep(10.0)
            woken_at.append(clock.monotonic())

    task = asyncio.create_task(tick(clock))
    await clock.until_asleep()
    await clock.advance(35.0)
    assert woken_at == [10.0, 20.0, 30.0]
    assert clock.monotonic() == 35.0
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert clock.asleep == 0


async def test_unix_time_and_monotonic_time_go_together():
    clock = FakeClock(monotonic=5.0, unix=1_000.0)
    await clock.advance(2.5)
    assert clock.monotonic() == 7.5
    assert clock.time() == 1_002.5


async def test_until_asleep_waits_for_as_many_as_it_is_told():
    clock = FakeClock()
    waiting = asyncio.create_task(clock.until_asleep(2))
    first = asyncio.create_task(clock.sleep(1.0))
    await clock.settle()
    assert not waiting.done()
    second = asyncio.create_task(clock.sleep(1.0))
    await waiting
    await clock.advance(1.0)
    await asyncio.gather(first, second)
