"""An engine that works is not restarted, however slow it is; one that does not work is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from fake_clock import FakeClock
from fake_docker import World
from lifecycle_daemon import SETTINGS, Daemon, policy, ready
from publish_records import engine_view, failed_engine_view
from supervisor_scene import STALLED, Scene, scene_of, session

from exporter.container.decide.activity import Activity, page_read, session_ended
from exporter.container.decide.observation import Action
from exporter.container.decide.policy import health_deadline
from exporter.container.decide.records import Cause, DockerError, DockerProblem, LifecycleState
from exporter.errors import EngineUnavailableError
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import TurnFacts

if TYPE_CHECKING:
    from exporter.model.engine import EngineView

NO_TOKEN = Failure(FailureReason.FIRST_TOKEN_TIMEOUT, "no first token within 60 s")
PAUSED = Failure(FailureReason.STREAM_ERROR, "Generation is paused. Please retry after it resumes.")
PAGE_SECONDS = 10.0
SESSION_SECONDS = 60.0


def page(at: float, *, asleep: bool | None = False, **counters: float | None) -> EngineView:
    """A reading of an engine whose counters stand at 100 but for those named."""
    view = engine_view()
    assert view.snapshot is not None
    stand = {"generation_tokens": 100.0, "prompt_tokens": 100.0, "iteration_tokens": 100.0}
    numbers = {**stand, "requests_waiting": 15.0, **counters}
    return replace(view, snapshot=replace(view.snapshot, at=at, asleep=asleep, **numbers))


def turn(seconds: float) -> TurnFacts:
    nothing = dict.fromkeys(
        (
            *("prompt_tokens", "completion_tokens", "cached_tokens", "hit_ratio", "tokens_saved"),
            *("ideal_cached_tokens", "efficiency_ratio", "ttft_seconds"),
        )
    )
    return TurnFacts(index=1, latency_seconds=seconds, **nothing)


@dataclass
class Engine:
    """What is read of an engine while it does something: its counters, and sessions that fail."""

    at: Scene
    counters: dict[str, float]

    async def go_on(
        self,
        seconds: float,
        *,
        works: tuple[str, ...] = (),
        failure: Failure | None = NO_TOKEN,
        asleep: bool = False,
    ) -> None:
        """A page every 10 s, a failed session of a minute every minute. `works` names what of its
        counters grows in that time.
        """
        for step in range(1, int(seconds / PAGE_SECONDS) + 1):
            await self.at.wait(PAGE_SECONDS)
            for name in works:
                self.counters[name] = self.counters.get(name, 100.0) + 7.0
            now = self.at.clock.monotonic()
            self.at.supervisor.engine_read(page(now, asleep=asleep, **self.counters))
            if failure is not None and step % (SESSION_SECONDS / PAGE_SECONDS) == 0:
                failed = replace(session(failure), duration_seconds=SESSION_SECONDS)
                self.at.supervisor.session_finished(failed)


def stops(at: Scene) -> int:
    return [call for call, _ in at.world.did].count("stop")


async def started(at: Scene) -> Engine:
    await at.wait(40)
    assert at.view.state is LifecycleState.READY
    return Engine(at, {})


# Sessions of the probe fail


@pytest.mark.parametrize(
    "counter", ["iteration_tokens", "generation_tokens", "prompt_tokens", "kv_cache_usage_ratio"]
)
async def test_an_engine_whose_counters_advance_is_busy_and_not_restarted(counter):
    async with scene_of() as at:
        engine = await started(at)
        await engine.go_on(1200, works=(counter,))
        assert stops(at) == 0
        assert at.view.state is LifecycleState.BUSY
        assert at.view.diagnosis.cause is Cause.BUSY
        assert "not dead" in at.view.diagnosis.summary
        assert at.events("warning") == ["container.unhealthy"], "it is logged once"
        at.supervisor.session_finished(session(None))
        await at.wait(10)
        assert at.view.state is LifecycleState.READY
        assert at.view.diagnosis is None


async def test_a_hung_engine_with_a_queue_is_found_dead():
    async with scene_of() as at:
        engine = await started(at)
        await engine.go_on(300)
        assert at.view.restarts == {Cause.PROBES_FAILED: 1}


async def test_a_busy_engine_that_hangs_later_is_found_dead_then():
    async with scene_of() as at:
        engine = await started(at)
        await engine.go_on(600, works=("generation_tokens",))
        assert stops(at) == 0
        await engine.go_on(300)
        assert at.view.restarts == {Cause.PROBES_FAILED: 1}


async def test_an_engine_whose_page_cannot_be_read_is_judged_by_its_probes():
    async with scene_of() as at:
        await started(at)
        for _ in range(SETTINGS.probe_failures):
            await at.wait(60)
            at.supervisor.engine_read(failed_engine_view())
            at.supervisor.session_finished(session(STALLED))
        await at.wait(20)
        assert at.view.restarts == {Cause.PROBES_FAILED: 1}


async def test_before_a_restart_two_pages_are_waited_for():
    async with scene_of(probe_failures=1) as at:
        await started(at)
        at.supervisor.engine_read(page(at.clock.monotonic()))
        await at.wait(5)
        at.supervisor.session_finished(session(STALLED))
        await at.wait(30)
        assert stops(at) == 0
        at.supervisor.engine_read(page(at.clock.monotonic()))
        await at.wait(10)
        at.supervisor.engine_read(page(at.clock.monotonic(), generation_tokens=101.0))
        await at.wait(10)
        assert at.view.state is LifecycleState.BUSY
        assert stops(at) == 0


async def test_pages_that_come_too_seldom_are_not_waited_for():
    async with scene_of() as at:
        await started(at)
        at.supervisor.engine_read(page(at.clock.monotonic()))
        for _ in range(SETTINGS.probe_failures):
            at.supervisor.session_finished(session(STALLED))
        await at.wait(110)
        assert stops(at) == 0
        await at.wait(30)
        assert stops(at) == 1


async def test_silence_is_measured_by_what_the_engine_was_seen_to_take():
    """Three short deadlines pass in the time of one slow turn: that is no silence yet."""
    async with scene_of() as at:
        await started(at)
        at.supervisor.session_finished(replace(session(None), turns=(turn(20.0), turn(3.0))))
        for _ in range(10):
            at.supervisor.session_finished(session(NO_TOKEN))
            await at.wait(5)
        assert stops(at) == 0
        await at.wait(20)
        assert stops(at) == 1


async def test_a_session_that_began_before_the_engine_was_ready_says_nothing():
    async with scene_of() as at:
        await started(at)
        for _ in range(SETTINGS.probe_failures):
            at.supervisor.session_finished(replace(session(STALLED), duration_seconds=60.0))
        await at.wait(20)
        assert stops(at) == 0


def test_work_between_two_pages_counts_from_the_earlier_one():
    activity = page_read(Activity(counts_from=0.0), page(100.0))
    failed = session_ended(activity, session(STALLED), 108.0)
    moved = page_read(failed, page(110.0, generation_tokens=101.0))
    assert (len(moved.failed), moved.slow) == (1, 0), "it may have worked before the session began"
    moved = page_read(moved, page(120.0, generation_tokens=102.0))
    assert (len(moved.failed), moved.slow) == (0, 1)


def test_a_family_that_is_missing_on_one_of_two_pages_is_no_work():
    activity = page_read(Activity(), page(100.0, iteration_tokens=None))
    assert page_read(activity, page(110.0)).last_work_at is None


# /health fails


async def test_failed_health_checks_of_an_engine_at_work_restart_nothing():
    async with scene_of() as at:
        engine = await started(at)
        at.world.only().unhealthy = True
        await engine.go_on(600, works=("iteration_tokens",), failure=None)
        assert stops(at) == 0
        assert at.view.state is LifecycleState.BUSY
        await engine.go_on(120, failure=None)
        assert at.view.restarts[Cause.HEALTH_FAILED] >= 1


async def test_failed_health_checks_of_an_engine_that_stands_still_restart_it():
    async with scene_of() as at:
        engine = await started(at)
        at.world.only().unhealthy = True
        await engine.go_on(60, failure=None)
        assert at.view.restarts == {Cause.HEALTH_FAILED: 1}


def test_health_may_take_longer_where_the_engine_was_seen_to_be_slow_and_after_each_failure():
    assert health_deadline(5.0, 0.01, 0) == 5.0
    assert health_deadline(5.0, 4.0, 0) == 12.0
    assert [health_deadline(5.0, 0.01, failures) for failures in (1, 2, 3)] == [10.0, 20.0, 20.0]
    assert health_deadline(5.0, 20.0, 2) == 30.0, "the timeout has a maximum"
    assert health_deadline(60.0, 0.0, 2) == 60.0, "a setting is kept"


async def test_the_timeout_of_health_grows_after_each_failed_check():
    async with scene_of(health_failures=9) as at:
        await started(at)
        at.health_deadlines.clear()
        at.world.only().unhealthy = True
        await at.wait(20)
        assert at.health_deadlines[:4] == [5.0, 10.0, 20.0, 20.0]


# At rest


async def test_an_engine_that_sleeps_is_not_ill():
    async with scene_of() as at:
        engine = await started(at)
        await engine.go_on(1200, asleep=True)
        assert stops(at) == 0
        assert at.view.state is LifecycleState.READY
        assert at.view.diagnosis is None
        assert "engine.suspended" in at.events("info")
        await engine.go_on(120)
        assert stops(at) == 0, "what it did not answer in its sleep is no failure"
        await engine.go_on(200)
        assert stops(at) == 1


async def test_an_engine_that_says_that_it_is_paused_is_not_ill():
    async with scene_of() as at:
        engine = await started(at)
        at.resting = FailureReason.PAUSED
        await engine.go_on(600)
        assert stops(at) == 0
        assert at.view.state is LifecycleState.READY
        at.resting = None
        await engine.go_on(600, failure=PAUSED)
        assert stops(at) == 0


async def test_an_engine_that_is_being_scaled_is_not_unhealthy():
    async with scene_of() as at:
        await started(at)

        async def scaling(_: float) -> bool:
            words = "HTTP 503: The model is currently scaling. Please try again later."
            raise EngineUnavailableError(FailureReason.PAUSED, words)

        at.healthy = scaling
        await at.wait(300)
        assert stops(at) == 0
        assert at.view.state is LifecycleState.READY


# How often


async def test_restarts_for_failed_checks_have_a_limit_in_an_hour():
    async with scene_of(restarts_per_hour=2) as at:
        await started(at)
        began = at.clock.time()
        for _ in range(3):
            at.world.only().unhealthy = True
            await at.wait(100)
        assert stops(at) == 2
        assert at.view.state is LifecycleState.UNHEALTHY
        assert at.view.diagnosis.cause is Cause.RESTART_LIMIT
        assert at.view.next_attempt_time == pytest.approx(began + 3600, abs=30)
        await at.wait(3600)
        assert stops(at) == 3


def test_a_container_that_exited_is_started_again_beyond_the_limit():
    world = World(FakeClock())
    world.images.add("vllm:v1")
    daemon = ready(Daemon(world, policy(restarts_per_hour=1)))
    world.only().unhealthy = True
    daemon.run(100)
    for _ in range(3):
        world.end(world.only(), 1)
        daemon.run(150)
        assert daemon.last.state is LifecycleState.READY
    assert daemon.acted.count(Action.STOP) == 1


def test_a_stop_that_docker_refused_is_one_restart_however_often_it_is_tried():
    world = World(FakeClock())
    world.images.add("vllm:v1")
    daemon = ready(Daemon(world, policy(restarts_per_hour=1)))
    world.only().unhealthy = True
    world.refuse["stop"] = DockerError(DockerProblem.TIMEOUT, "stop: no answer")
    daemon.run(120)
    assert daemon.acted.count(Action.STOP) > 1
    assert len(daemon.memory.stop_times) == 1
