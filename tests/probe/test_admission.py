"""The budget and the order in which sessions are admitted, and what is published and logged."""

import asyncio
import itertools
import random
from contextlib import suppress

import pytest
import structlog
from admission_scene import Scene
from fake_clock import FakeClock
from load_views import engine
from probe_loops import ProbeLoops
from publish_records import session, turn

from exporter.analysis.load import HEARTBEAT_SHARE, UNKNOWN_TURN_TOKENS, Work
from exporter.model.probe import Due, PauseReason


async def test_the_budget_is_waited_for_without_asking_the_engine():
    scene = Scene()
    await scene.pass_through(tokens=5_000)
    looks = scene.looks
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(1799.0)
    assert not waiting.done()
    assert scene.published[-1] is PauseReason.BUDGET
    assert scene.looks == looks
    await scene.clock.advance(2.0)
    await waiting
    assert scene.published[-1] is None


async def test_the_end_of_the_wait_for_the_budget_is_known():
    scene = Scene()
    await scene.pass_through(tokens=5_000)
    assert scene.sink.pauses[-1] == (None, None)
    until = scene.clock.time() + 1800
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    assert scene.sink.pauses[-1] == (PauseReason.BUDGET, pytest.approx(until))
    await scene.clock.advance(1801.0)
    await waiting
    assert scene.sink.pauses[-1] == (None, None)


async def _heartbeat(scene):
    async with scene.admission.admitted(Work.HEARTBEAT):
        pass


async def test_a_budget_moves_on_when_a_heartbeat_is_due_and_a_busy_engine_does_not():
    scene = Scene()
    async with scene.admission.admitted(Work.HEARTBEAT) as charge:
        charge.tokens = 5_000
    until = scene.clock.time() + 3600 * 5_000 / (10_000 * HEARTBEAT_SHARE)
    waiting = asyncio.create_task(_heartbeat(scene))
    await scene.clock.until_asleep()
    assert scene.sink.due[-1] == (Due.HEARTBEAT, pytest.approx(until))
    scene.view = engine(waiting=5)
    await scene.clock.advance(2100.0)
    assert not waiting.done()
    assert scene.sink.due[-1] == (Due.HEARTBEAT, pytest.approx(until))
    waiting.cancel()


async def test_a_long_pause_is_published_again_and_again_so_the_loop_is_seen_alive():
    scene = Scene()
    await scene.pass_through(tokens=10_000)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(3600.0)
    await waiting
    assert scene.published.count(PauseReason.BUDGET) >= 60


async def test_a_budget_that_paces_every_session_is_logged_once():
    scene = Scene()
    with structlog.testing.capture_logs() as logged:
        for _ in range(5):
            task = asyncio.create_task(scene.pass_through(tokens=5_000))
            await scene.clock.settle()
            while not task.done():
                await scene.clock.advance(60.0)
        await scene.clock.advance(36_000.0)
        await scene.pass_through()
    assert [line["event"] for line in logged] == ["probe.paused", "probe.resumed"]


async def test_a_failed_session_is_charged_and_the_next_one_is_admitted():
    scene = Scene()
    with pytest.raises(ZeroDivisionError):
        await scene.pass_through(tokens=10_000, error=ZeroDivisionError())
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(3599.0)
    assert not waiting.done()
    await scene.clock.advance(2.0)
    await waiting


async def test_one_session_at_a_time_is_admitted():
    scene = Scene(tokens_per_hour=0)
    first_is_in, first_may_go = asyncio.Event(), asyncio.Event()

    async def first():
        async with scene.admission.admitted():
            first_is_in.set()
            await first_may_go.wait()

    one = asyncio.create_task(first())
    await first_is_in.wait()
    other = asyncio.create_task(scene.pass_through())
    await scene.clock.settle()
    assert not other.done()
    first_may_go.set()
    await asyncio.gather(one, other)


async def test_a_wait_without_announce_is_not_published():
    scene = Scene()
    scene.view = engine(waiting=1.0)

    async def quiet():
        async with scene.admission.admitted():
            pass

    with structlog.testing.capture_logs() as logged:
        waiting = asyncio.create_task(quiet())
        await scene.clock.until_asleep()
        scene.view = engine()
        await scene.clock.advance(6.0)
        await waiting
    assert (scene.published, logged) == ([], [])


async def test_a_cancelled_wait_or_session_leaves_the_admission_free():
    scene = Scene()
    scene.view = engine(waiting=1.0)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    scene.view = engine()
    await scene.pass_through()


async def test_a_cancelled_session_is_charged_for_its_running_request_too():
    scene = Scene()
    inside = asyncio.Event()

    async def stay():
        async with scene.admission.admitted() as charge:
            charge.tokens = 2_000
            inside.set()
            await asyncio.Event().wait()

    staying = asyncio.create_task(stay())
    await inside.wait()
    staying.cancel()
    with suppress(asyncio.CancelledError):
        await staying
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance((2_000 + UNKNOWN_TURN_TOKENS) * 3600 / 10_000 - 1)
    assert not waiting.done()
    await scene.clock.advance(2.0)
    await waiting


@pytest.mark.parametrize(("tokens_per_hour", "seconds"), [(100_000, 360.0), (5_000, 7200.0)])
async def test_a_new_budget_counts_what_was_spent_under_the_old_one(tokens_per_hour, seconds):
    before, scene = Scene(), Scene(tokens_per_hour=tokens_per_hour)
    await before.pass_through(tokens=10_000)
    scene.admission.continue_from(before.admission)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(seconds - 1)
    assert not waiting.done()
    await scene.clock.advance(2.0)
    await waiting


async def test_without_a_limit_tokens_spent_before_delay_nothing():
    before, scene = Scene(), Scene(tokens_per_hour=0)
    await before.pass_through(tokens=10_000)
    scene.admission.continue_from(before.admission)
    await scene.pass_through()


class CostlyRunner:
    """Sessions of random cost and length; remembers when each ended and what it cost."""

    def __init__(self, clock: FakeClock, chance: random.Random) -> None:
        self._clock, self._chance = clock, chance
        self.spent = []

    async def play(self, _hooks=None):
        self._clock.jump(self._chance.uniform(1, 120))
        prompts = [self._chance.randint(200, 3000) for _ in range(self._chance.randint(1, 8))]
        turns = [turn(index, prompt, 0, 0) for index, prompt in enumerate(prompts, start=1)]
        self.spent.append((self._clock.monotonic(), sum(prompts) + 32 * len(prompts)))
        return session(*turns)


@pytest.mark.parametrize("seed", range(5))
async def test_in_a_day_no_hour_costs_more_than_the_budget_and_one_session(seed):
    scene = Scene(tokens_per_hour=10_000)
    runner = CostlyRunner(scene.clock, random.Random(seed))
    loop = ProbeLoops(scene.clock, scene.admission).sessions(runner)
    task = asyncio.create_task(loop.run())
    await scene.clock.until_asleep()
    await scene.clock.advance(86_400.0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    total, largest = sum(cost for _, cost in runner.spent), max(cost for _, cost in runner.spent)
    assert 24 * 10_000 * 0.9 < total <= 24 * 10_000 + largest
    for place, (begin, _) in enumerate(runner.spent):
        hour = [
            cost for at, cost in itertools.islice(runner.spent, place, None) if at < begin + 3600
        ]
        assert sum(hour) <= 10_000 + max(hour)
