"""A loop survives unexpected exceptions, and ends when it is cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import structlog
from fake_clock import FakeClock
from recorded_sinks import RecordedLoop

from exporter.loops import RESTART_SECONDS, Guarded, LoopHeartbeat, Periodic, Schedule, endless


def test_an_unexpected_exception_is_logged_with_its_trace_and_counted():
    counted = []
    with (
        structlog.testing.capture_logs() as logged,
        Guarded("it.failed", lambda: counted.append(1)),
    ):
        raise ZeroDivisionError
    assert counted == [1]
    assert [(line["event"], line["log_level"]) for line in logged] == [("it.failed", "error")]
    assert isinstance(logged[0]["exc_info"], ZeroDivisionError)


def test_what_is_no_exception_passes():
    with pytest.raises(KeyboardInterrupt), Guarded("it.failed"):
        raise KeyboardInterrupt
    with pytest.raises(asyncio.CancelledError), Guarded("it.failed"):
        raise asyncio.CancelledError


class Loop:
    """A loop that does one thing when it begins, and counts its begins."""

    def __init__(self, first) -> None:
        self.begins = 0
        self.counted = RecordedLoop(may_fail=True)
        self._first = first

    async def run(self) -> None:
        self.begins += 1
        if self.begins == 1:
            await self._first()
        await asyncio.Event().wait()


async def fails() -> None:
    raise MemoryError


async def fails_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails())


async def ends() -> None:
    raise StopAsyncIteration


@pytest.mark.parametrize("first", [fails, fails_in_a_group, ends])
async def test_a_loop_that_fails_as_a_whole_begins_again(first):
    clock, loop = FakeClock(), Loop(first)
    task = asyncio.create_task(endless(LoopHeartbeat("a", loop.counted, clock), loop.run))
    await clock.until_asleep()
    assert (loop.begins, loop.counted.failures) == (1, 1)
    await clock.advance(RESTART_SECONDS)
    assert (loop.begins, loop.counted.failures) == (2, 1)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_a_loop_that_ends_by_itself_begins_again():
    clock, begins, counted = FakeClock(), [], RecordedLoop(may_fail=True)

    async def once() -> None:
        begins.append(1)

    task = asyncio.create_task(endless(LoopHeartbeat("a", counted, clock), once))
    await clock.until_asleep()
    await clock.advance(RESTART_SECONDS)
    assert (len(begins), counted.failures) == (2, 2)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


@pytest.mark.parametrize("then", ["ends", "fails"])
async def test_a_loop_that_lost_its_cancellation_does_not_begin_again(then):
    begun, begins = asyncio.Event(), []

    async def careless() -> None:
        begins.append(1)
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if then == "fails":
            raise ZeroDivisionError

    task = asyncio.create_task(endless(RecordedLoop(may_fail=True).heartbeat, careless))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert begins == [1]


async def test_rounds_start_at_each_interval_and_one_that_fails_is_logged_and_counted():
    clock = FakeClock(monotonic=0.0)
    counted, started = RecordedLoop(clock, may_fail=True), []

    async def round_(_start) -> None:
        started.append(clock.monotonic())
        clock.jump(20.0 if len(started) == 3 else 4.0)
        if len(started) == 1:
            raise ZeroDivisionError

    loop = Periodic(counted.heartbeat, round_, Schedule(5.0, 10.0))
    assert loop.due_at is None
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(loop.run())
        for _ in range(4):
            await clock.until_asleep()
            await clock.advance(10.0)
    task.cancel()
    await asyncio.wait({task})
    assert started[:3] == [5.0, 15.0, 25.0]
    assert counted.failures == 1 < counted.rounds
    assert [(line["event"], line["loop"]) for line in logged] == [("loop.round_failed", "loop")]


async def test_the_interval_counts_from_where_a_round_that_waited_says_that_it_starts():
    clock = FakeClock(monotonic=0.0)

    async def waits_for_7_seconds(start) -> None:
        await clock.sleep(7.0)
        start()

    loop = Periodic(RecordedLoop(clock).heartbeat, waits_for_7_seconds, Schedule(0.0, 10.0))
    task = asyncio.create_task(loop.run())
    await clock.until_asleep()
    assert loop.due_at == 10.0
    await clock.advance(7.0)
    await clock.until_asleep()
    assert loop.due_at == 17.0
    task.cancel()
    await asyncio.wait({task})
