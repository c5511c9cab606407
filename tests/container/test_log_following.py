"""Following a log: the end of the log, and the end of the follower."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from fake_clock import FakeClock
from supervisor_scene import scene_of

from exporter.container.decide.records import DockerError, DockerProblem, LogLine
from exporter.container.log_following import RunFollower


class Door:
    """A log that does what the test says: `lines`, then `end`."""

    def __init__(self, lines=(), end=None) -> None:
        self.lines = [LogLine(1_700_000_000.0 + n, text) for n, text in enumerate(lines)]
        self.end = end
        self.opened = 0
        self.closing = asyncio.Event()  # set: the stream is being closed
        self.may_close = asyncio.Event()
        self.may_close.set()

    async def logs(self, _container_id, _since_time):
        self.opened += 1
        try:
            for line in self.lines:
                yield line
            if self.end is not None:
                raise self.end
            await asyncio.Event().wait()
        finally:
            self.closing.set()
            await self.may_close.wait()


def follow(door: Door, clock: FakeClock, *, up: bool = False) -> RunFollower:
    return RunFollower(
        door,
        ("c1", 1.0),
        clock,
        structlog.get_logger(),
        read_from=None,
        counted_from=0.0,
        on_load=lambda: None,
        up=up,
    )


async def test_a_cancellation_that_comes_while_a_follower_is_closed_is_not_lost():
    door, clock = Door(), FakeClock()
    follower = follow(door, clock)
    await clock.settle()
    door.may_close.clear()
    closing = asyncio.create_task(follower.close())
    await door.closing.wait()
    closing.cancel()
    await clock.settle()
    assert closing.cancelled(), "the caller of close is cancelled, and ends"
    door.may_close.set()
    await clock.settle()


async def test_a_supervisor_that_is_cancelled_while_it_changes_logs_ends_silently():
    async with scene_of() as at:
        await at.wait(40)
        logs, may_close = at.door.logs, asyncio.Event()

        async def slow_to_close(container_id, since_time):
            try:
                async for line in logs(container_id, since_time):
                    yield line
            finally:
                await may_close.wait()

        at.door.logs = slow_to_close
        for _ in range(2):  # another run, whose log is the slow one; and one more, which closes it
            at.world.only().started_time += 1.0
            await at.wait(10)
        (task,) = [one for one in asyncio.all_tasks() if "Supervisor.run" in repr(one)]
        task.cancel()
        await at.clock.settle()
        told = len(at.views)
        may_close.set()
        await at.clock.settle()
        assert task.done()
        await at.wait(30)
        assert len(at.views) == told


async def test_an_unexpected_exception_makes_the_log_unreadable():
    door, clock = Door(["one"], end=ZeroDivisionError()), FakeClock()
    with structlog.testing.capture_logs() as logged:
        follower = follow(door, clock)
        await clock.settle()
    assert follower.progress is None
    assert [line["event"] for line in logged if line["log_level"] == "error"] == [
        "container.log_failed"
    ]
    await follower.close()


NO_ROOM = DockerError(DockerProblem.NO_THREADS, "the limit of open logs is reached")


@pytest.mark.parametrize(
    ("lines", "up", "again"),
    [
        (["INFO Starting to load model m"], False, 2),
        (["INFO:     Application startup complete."], False, 1),
        ([], True, 1),
    ],
)
async def test_where_there_is_no_room_only_a_start_is_followed_on(lines, up, again):
    door, clock = Door(lines, end=NO_ROOM), FakeClock()
    follower = follow(door, clock, up=up)
    await clock.settle()
    await clock.advance(6.0)
    assert door.opened == again
    await follower.close()
