"""A loop outlives what nobody foresaw, and never its own cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
import structlog
from fake_clock import FakeClock
from recorded_sinks import RecordedLoop

from exporter.loops import RESTART_SECONDS, Guarded, LoopHeartbeat, endless


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
