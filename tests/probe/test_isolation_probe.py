"""The isolation test on a schedule: on a simulated engine, on a clock of the test's."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from fake_clock import FakeClock
from load_views import engine, load_policy, new_admission
from probe_loops import ProbeLoops

from exporter.loops import Schedule
from exporter.model.probe import IsolationReading
from exporter.simulator.faults import faults


class Watched:
    """The loop over a bench, what it published, and its clock."""

    def __init__(self, at, observe=None, policy=None) -> None:
        self.clock = FakeClock()
        admission = new_admission(observe or at.requests.observe, self.clock, policy)
        loops = ProbeLoops(self.clock, admission, at.requests, new_salt=at.new_salt, may_fail=True)
        self.loop = loops.isolation(Schedule(30.0, 600.0))
        self.readings, self.tokens = loops.sink.isolation, loops.sink.tokens
        self.counted = loops.counted

    async def round_of(self, seconds):
        """Advance the clock, and wait until the round that starts then has ended."""
        await self.clock.until_asleep()
        await self.clock.advance(seconds)
        await self.clock.until_asleep()


@contextlib.asynccontextmanager
async def running(watched):
    task = asyncio.create_task(watched.loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sound_engine_neither_leaks_nor_is_wedged_and_the_tokens_are_counted(bench):
    async with bench() as at:
        watched = Watched(at)
        async with running(watched):
            await watched.clock.until_asleep()
            assert watched.readings == [], "the first comes after its delay"
            await watched.round_of(30)
            await watched.round_of(600)
        served = at.simulator.engine.process.page(log_stats=True).decode()
    assert watched.readings == [IsolationReading("t", leaked=False, wedged=False)] * 2
    prompts = sum(
        float(line.split()[-1])
        for line in served.splitlines()
        if line.startswith(("vllm:prompt_tokens_total", "vllm:generation_tokens_total"))
    )
    assert sum(watched.tokens) == prompts > 0
    assert (watched.counted.rounds, watched.counted.failures) == (2, 0)


async def test_an_engine_that_ignores_salts_is_logged_once(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        watched = Watched(at)
        with structlog.testing.capture_logs() as logged:
            async with running(watched):
                await watched.round_of(30)
                await watched.round_of(600)
    assert [one.leaked for one in watched.readings] == [True, True]
    assert [line["event"] for line in logged] == ["isolation.leak"]


async def test_a_round_that_cannot_tell_neither_ends_a_leak_in_the_log_nor_begins_another(bench):
    async with bench() as at:
        watched = Watched(at)
        at.simulator.inject(faults.IgnoreSalts())
        with structlog.testing.capture_logs() as logged:
            async with running(watched):
                await watched.round_of(30)
                at.simulator.inject(faults.Wedge())
                await watched.round_of(600)
                at.simulator.clear(faults.Wedge)
                await watched.round_of(600)
                at.simulator.clear(faults.IgnoreSalts)
                await watched.round_of(600)
    assert [one.leaked for one in watched.readings] == [True, None, True, False]
    ours = [line for line in logged if line["event"].startswith("isolation.")]
    assert [(line["event"], line.get("after")) for line in ours] == [
        ("isolation.leak", None),
        ("isolation.wedge", None),
        ("isolation.recovered", "isolation.wedge"),
        ("isolation.recovered", "isolation.leak"),
    ]


async def test_a_wedged_engine_is_reported_and_its_isolation_is_unknown(bench):
    async with bench() as at:
        watched = Watched(at)
        async with running(watched):
            await watched.round_of(30)
            at.simulator.inject(faults.Wedge())
            await watched.round_of(600)
    assert watched.readings[1] == IsolationReading("t", leaked=None, wedged=True)


async def test_an_engine_that_does_not_answer_gives_no_reading_and_the_loop_goes_on(bench):
    async with bench() as at:
        watched = Watched(at)
        async with running(watched):
            at.simulator.inject(faults.Crash())
            await at.simulator._settle()
            await watched.round_of(30)
            await at.simulator.recover()
            await watched.round_of(600)
    assert watched.readings == [IsolationReading("t", leaked=False, wedged=False)]
    assert watched.counted.rounds == 2


async def test_it_waits_for_admission_while_requests_wait_in_the_engines_queue(bench):
    async with bench() as at:
        queue = [engine(waiting=3.0), engine(waiting=0.0)]

        async def observe():
            return queue.pop(0) if len(queue) > 1 else queue[0]

        watched = Watched(at, observe, load_policy(usage=0.9))
        async with running(watched):
            await watched.clock.until_asleep()
            await watched.clock.advance(30)
            assert watched.readings == []
            await watched.round_of(60)
    assert len(watched.readings) == 1


async def test_an_unexpected_exception_is_counted_and_the_loop_goes_on(bench):
    async with bench() as at:
        watched = Watched(at)

        async def broken():
            raise ZeroDivisionError

        info, at.client.info = at.client.info, broken
        async with running(watched):
            await watched.round_of(30)
            at.client.info = info
            await watched.round_of(600)
    assert watched.counted.failures == 1
    assert len(watched.readings) == 1
