"""When the probe is admitted, and what is published and logged while it waits."""

import asyncio
import itertools
import random
from contextlib import suppress
from dataclasses import replace

import pytest
import structlog
from fake_clock import FakeClock
from load_views import engine, load_policy, new_admission
from probe_loops import ProbeLoops
from publish_records import session, turn
from recorded_sinks import RecordedProbe

from exporter.analysis.load import UNKNOWN_TURN_TOKENS
from exporter.model.failure import FailureReason
from exporter.model.probe import PauseReason


class Scene:
    """An admission whose engine and clock the test sets."""

    def __init__(self, tokens_per_hour=10_000) -> None:
        self.clock = FakeClock(monotonic=0.0)
        self.view = engine()
        self.sink = RecordedProbe()
        self.looks = 0
        self.works = False  # whether the engine generates tokens between readings
        self.rest = None
        self.rest_asked = 0
        self.admission = new_admission(
            self._observe,
            self.clock,
            load_policy(tokens_per_hour, usage=0.9),
            sink=self.sink,
            rest=self._rest,
        )

    @property
    def published(self):
        """The reasons."""
        return [reason for reason, _ in self.sink.pauses]

    async def _rest(self):
        self.rest_asked += 1
        return self.rest

    async def _observe(self):
        self.looks += 1
        if self.works:
            self.view = engine_at_work(self.view, self.looks)
        return self.view

    async def pass_through(self, tokens=0, error=None, failure=None):
        async with self.admission.admitted(announce=True) as charge:
            charge.tokens, charge.failure = tokens, failure
            if error is not None:
                raise error


def engine_at_work(view, generated):
    return replace(view, snapshot=replace(view.snapshot, generation_tokens=float(generated)))


@pytest.mark.parametrize(
    ("busy", "reason"),
    [(engine(waiting=1.0), PauseReason.QUEUE), (engine(usage=0.95), PauseReason.USAGE)],
)
async def test_a_busy_engine_is_waited_for_and_the_reason_is_published_until_it_is_over(
    busy, reason
):
    scene = Scene()
    scene.view, scene.works = busy, True
    with structlog.testing.capture_logs() as logged:
        waiting = asyncio.create_task(scene.pass_through())
        await scene.clock.until_asleep()
        await scene.clock.advance(100.0)
        assert not waiting.done()
        assert set(scene.published) == {reason}
        scene.view = engine()
        await scene.clock.advance(10.0)
        await waiting
    assert scene.published[-1] is None
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("probe.paused", reason),
        ("probe.resumed", None),
    ]


@pytest.mark.parametrize(
    ("stuck", "reason"),
    [(engine(waiting=15.0), PauseReason.QUEUE), (engine(usage=0.95), PauseReason.USAGE)],
)
async def test_an_engine_that_counts_nothing_for_a_minute_is_probed_once_whatever_its_gauges_say(
    stuck, reason
):
    scene = Scene()
    scene.view = stuck
    with structlog.testing.capture_logs() as logged:
        for round_ in range(1, 4):
            waiting = asyncio.create_task(scene.pass_through())
            await scene.clock.until_asleep()
            await scene.clock.advance(59.0)
            assert not waiting.done()
            assert scene.published[-1] is reason
            await scene.clock.advance(1.0)
            await waiting
            assert scene.published.count(None) == round_
    assert [line["event"] for line in logged] == ["probe.paused", "probe.engine_stalled"]


async def test_the_minute_without_a_count_restarts_with_each_count_and_each_idle_reading():
    scene = Scene()
    scene.view = engine(waiting=1.0)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    for generated in range(10):
        await scene.clock.advance(55.0)
        scene.view = engine(waiting=1.0, generated=float(generated))
    assert not waiting.done()
    scene.view = engine()
    await scene.clock.advance(5.0)
    await waiting


async def test_only_a_session_finds_out_whether_an_engine_that_counts_nothing_is_stuck():
    scene = Scene()
    scene.view = engine(waiting=1.0)

    async def quiet():
        async with scene.admission.admitted():
            pass

    waiting = asyncio.create_task(quiet())
    await scene.clock.until_asleep()
    await scene.clock.advance(600.0)
    assert not waiting.done()
    scene.view = engine()
    await scene.clock.advance(5.0)
    await waiting


async def test_a_sleeping_engine_is_not_probed_however_long_it_counts_nothing():
    scene = Scene()
    scene.view = engine(asleep=True)
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(3600.0)
    assert not waiting.done()
    assert set(scene.published) == {PauseReason.ASLEEP}
    scene.view = engine(asleep=False)
    await scene.clock.advance(5.0)
    await waiting
    assert scene.published[-1] is None


async def test_an_engine_that_failed_a_session_is_asked_whether_it_sleeps_or_is_paused():
    """Before vLLM 0.11 /metrics does not show sleep, and no version shows a pause there."""
    scene = Scene()
    await scene.pass_through(failure=FailureReason.FIRST_TOKEN_TIMEOUT)
    assert scene.rest_asked == 0
    scene.rest = FailureReason.PAUSED
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(600.0)
    assert not waiting.done()
    assert scene.published[-1] is PauseReason.PAUSED
    scene.rest = None
    await scene.clock.advance(5.0)
    await waiting
    asked = scene.rest_asked
    await scene.pass_through()
    assert scene.rest_asked == asked, "an engine that answers is not asked"


async def test_a_queue_that_stands_still_in_a_paused_engine_is_not_probed():
    """Requests of others wait in it, and only the engine can say that it does not hang."""
    scene = Scene()
    scene.view = engine(waiting=15.0)
    scene.rest = FailureReason.PAUSED
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(30.0)
    assert (scene.published[-1], scene.rest_asked) == (PauseReason.QUEUE, 0)
    await scene.clock.advance(3600.0)
    assert not waiting.done()
    assert scene.published[-1] is PauseReason.PAUSED
    scene.rest = None
    await scene.clock.advance(5.0)
    await waiting


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (FailureReason.PAUSED, PauseReason.PAUSED),
        (FailureReason.SCALING, PauseReason.SCALING),
        (FailureReason.ASLEEP, PauseReason.ASLEEP),
    ],
)
async def test_an_engine_that_said_it_rests_gets_no_session_for_a_minute(failure, reason):
    scene = Scene()
    await scene.pass_through(failure=failure)
    assert scene.published[-1] is reason, "between two sessions too"
    waiting = asyncio.create_task(scene.pass_through())
    await scene.clock.until_asleep()
    await scene.clock.advance(59.0)
    assert not waiting.done()
    await scene.clock.advance(1.0)
    await waiting
    assert scene.published[-1] is None


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

    async def play(self):
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


async def test_a_due_request_is_sent_between_two_turns_of_a_session():
    scene = Scene()
    done = []

    async def due():
        async with scene.admission.turn():
            done.append("due")

    async with scene.admission.admitted():
        waiting = asyncio.create_task(due())
        await scene.clock.settle()
        done.append("request 1")
        await scene.admission.yield_turn()
        done.append("request 2")
    await waiting
    assert done == ["request 1", "due", "request 2"]


async def test_an_admitted_session_waits_for_a_due_request():
    scene = Scene()
    ends, done = asyncio.Event(), []

    async def due():
        async with scene.admission.turn():
            await ends.wait()
            done.append("due")

    reading = asyncio.create_task(due())
    await scene.clock.settle()
    waiting = asyncio.create_task(scene.pass_through())
    waiting.add_done_callback(lambda _: done.append("session"))
    await scene.clock.settle()
    ends.set()
    await asyncio.gather(reading, waiting)
    assert done == ["due", "session"]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_session_cancelled_while_it_yields_leaves_the_admission_free(begun):
    scene = Scene()
    ends = asyncio.Event()

    async def due():
        async with scene.admission.turn():
            await ends.wait()

    async def session():
        async with scene.admission.admitted():
            await scene.clock.settle()
            await scene.admission.yield_turn()

    tasks = [asyncio.create_task(one()) for one in ((session, due) if begun else (due, session))]
    await scene.clock.settle()
    await scene.clock.settle()
    cut_off = tasks[0 if begun else 1]
    cut_off.cancel()
    with suppress(asyncio.CancelledError):
        await cut_off
    ends.set()
    await tasks[1 if begun else 0]
    await scene.clock.advance(1e9)
    await scene.pass_through()
    async with scene.admission.turn():
        pass
