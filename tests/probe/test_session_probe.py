"""When sessions start, and what is logged."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
import structlog
from fake_clock import FakeClock
from load_views import load_policy, new_admission
from probe_loops import ProbeLoops
from publish_records import session, turn

from exporter.analysis.load import UNKNOWN_TURN_TOKENS
from exporter.loops import Schedule
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import Control, ControlOutcome, Notice, SessionResult
from exporter.probe.admission import Admission

DOWN = Failure(FailureReason.CONNECTION_REFUSED, "nothing listens at 127.0.0.1:8000")


def result(
    failure: Failure | None = None, *notices: Notice, scenario: str = "coding-agent"
) -> SessionResult:
    return SessionResult(
        target="t",
        scenario=scenario,
        simulated=False,
        model="m",
        engine_version=None,
        started_time=0.0,
        duration_seconds=1.0,
        turns=(),
        failure=failure,
        notices=frozenset(notices),
    )


class ScriptedRunner:
    """Each session takes `seconds` of the fake clock and ends as the script says."""

    def __init__(self, clock: FakeClock, script, seconds: float = 0.0) -> None:
        self._clock = clock
        self._script = iter(script)
        self._seconds = seconds
        self.started_at: list[float] = []

    async def play(self, _hooks=None) -> SessionResult:
        self.started_at.append(self._clock.monotonic())
        self._clock.jump(self._seconds)
        outcome = next(self._script)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def unlimited(clock: FakeClock, tokens_per_hour: int = 0) -> Admission:
    return new_admission(_idle_engine, clock, load_policy(tokens_per_hour))


async def run_rounds(script, *, seconds=0.0, interval=60.0, jitter=1.0, tokens_per_hour=0):
    """Play the whole script; when each session started, what was published, failures, the log."""
    clock = FakeClock(monotonic=0.0)
    script = list(script)
    runner = ScriptedRunner(clock, script, seconds)
    admission = unlimited(clock, tokens_per_hour)
    loops = ProbeLoops(clock, admission, may_fail=True)
    loop = loops.sessions(runner, Schedule(0.0, interval, lambda: jitter))
    with structlog.testing.capture_logs() as logged:
        task = asyncio.create_task(loop.run())
        for _ in script:
            await clock.until_asleep()
            if loops.counted.rounds < len(script):
                await clock.advance(interval + 0.1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return runner.started_at, loops.sink.sessions, loops.counted.failures, logged


async def started_at(session_seconds: float, *waits: float) -> list[list[float]]:
    """The start times of sessions of that length, seen after each wait."""
    clock = FakeClock(monotonic=0.0)
    runner = ScriptedRunner(clock, [result()] * 3, seconds=session_seconds)
    loop = ProbeLoops(clock, unlimited(clock)).sessions(runner)
    task = asyncio.create_task(loop.run())
    await clock.until_asleep()
    seen = []
    for wait in waits:
        await clock.advance(wait)
        seen.append(list(runner.started_at))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return seen


async def test_the_interval_is_from_start_to_start():
    assert await started_at(7.0, 52.9, 0.2) == [[0.0], [0.0, 60.0]]


async def test_a_session_longer_than_the_interval_is_followed_after_a_pause_and_not_at_once():
    assert await started_at(90.0, 5.9, 0.2) == [[0.0], [0.0, 96.0]]


async def test_a_failure_is_logged_once_and_its_end_once():
    script = [result(), result(DOWN), result(DOWN), result(DOWN), result(), result()]
    _, published, _, logged = await run_rounds(script)
    assert published == script
    assert transitions(logged) == ["session.failed", "session.recovered"]
    assert logged[[line["event"] for line in logged].index("session.failed")]["detail"]


async def test_another_reason_is_another_line():
    other = Failure(FailureReason.STALLED, "no further token")
    _, _, _, logged = await run_rounds([result(DOWN), result(other), result(other)])
    reasons = [line["reason"] for line in logged if line["event"] == "session.failed"]
    assert reasons == [FailureReason.CONNECTION_REFUSED, FailureReason.STALLED]


async def test_a_notice_is_logged_once_with_what_to_do_and_once_when_it_is_gone():
    noticed = result(None, Notice.USAGE_DETAILS_MISSING)
    _, _, _, logged = await run_rounds([noticed, noticed, result(DOWN), noticed, result()])
    lines = [line for line in logged if line["event"].startswith("session.notice")]
    assert [line["event"] for line in lines] == ["session.notice", "session.notice_gone"]
    assert "--enable-prompt-tokens-details" in lines[0]["meaning"]


def transitions(logged):
    told = [line["event"] for line in logged if line["log_level"] != "debug"]
    return [event for event in told if event != "session.finished"]


async def test_a_finished_session_is_logged_with_its_sums_and_a_failed_one_only_for_debugging():
    turns = (turn(1, 1000, 0, 0), turn(2, 1100, 880, 1088))
    _, _, _, logged = await run_rounds([replace(result(), turns=turns), result(DOWN), result()])
    said = [line for line in logged if line["event"] == "session.finished"]
    assert [line["log_level"] for line in said] == ["info", "debug", "info"]
    wanted = {"turns": 2, "prompt_tokens": 2100, "cached_tokens": 880, "hit_ratio": 0.419}
    assert wanted.items() <= said[0].items()
    assert said[1]["failure"] is FailureReason.CONNECTION_REFUSED
    assert "hit_ratio" not in said[2]  # it is unknown


async def test_a_notice_of_sessions_that_fail_each_time_is_logged_once():
    noticed = result(DOWN, Notice.SALT_IGNORED)
    _, _, _, logged = await run_rounds([noticed] * 5)
    assert transitions(logged) == ["session.failed", "session.notice"]


async def test_a_notice_of_a_failed_session_is_gone_once_a_session_finishes_without_it():
    script = [result(DOWN, Notice.SALT_IGNORED), result(DOWN), result(), result()]
    _, _, _, logged = await run_rounds(script)
    assert transitions(logged) == [
        *("session.failed", "session.notice"),
        *("session.recovered", "session.notice_gone"),
    ]


async def test_a_notice_of_one_scenario_of_two_is_logged_once():
    script = [result(None, Notice.OPENING_SHORT), result(scenario="other")] * 4
    _, _, _, logged = await run_rounds(script)
    assert transitions(logged) == ["session.notice"]


async def test_a_notice_of_every_scenario_is_logged_once_and_gone_with_the_last():
    def each(*notices):
        return [result(None, *notices, scenario=name) for name in ("one", "other")]

    _, _, _, logged = await run_rounds([*each(Notice.MIXED), *each()])
    assert transitions(logged) == ["session.notice", "session.notice_gone"]


async def test_a_scenario_that_fails_each_time_is_logged_once_though_another_finishes():
    too_long = Failure(FailureReason.PROMPT_TOO_LONG, "9000 tokens")
    script = [result(too_long, scenario="long"), result()] * 4
    _, _, _, logged = await run_rounds([*script, result(scenario="long"), result()])
    assert transitions(logged) == ["session.failed", "session.recovered"]


async def test_a_target_that_fails_is_logged_once_whatever_the_scenario():
    down = [result(DOWN, scenario=name) for name in ("one", "other")]
    well = [result(scenario=name) for name in ("one", "other")]
    _, _, _, logged = await run_rounds([*well, *down, *down, *well])
    assert transitions(logged) == ["session.failed", "session.recovered"]


def of_tokens(tokens):
    return session(turn(1, tokens, 0, 0, completion=0), target="t")


@pytest.mark.parametrize(
    ("interval", "tokens_per_hour", "warned"),
    [(15.0, 5_000_000, True), (60.0, 5_000_000, False), (15.0, 0, False), (15.0, 6_000_000, False)],
)
async def test_an_interval_too_short_for_the_budget_is_warned_of_once(
    interval, tokens_per_hour, warned
):
    script = [of_tokens(24_000)] * 3
    _, _, _, logged = await run_rounds(script, interval=interval, tokens_per_hour=tokens_per_hour)
    lines = [line for line in logged if line["event"] == "probe.interval_too_short"]
    assert len(lines) == warned
    if warned:
        assert lines[0]["meaning"].startswith(
            "a session of 24,000 tokens every 15 s is more than 5,000,000 tokens an hour: "
            "the next starts after 17.3 s."
        )


async def test_an_unexpected_exception_is_logged_and_counted_and_the_loop_goes_on():
    _, published, failures, logged = await run_rounds([RuntimeError("a mistake"), result()])
    assert (len(published), failures) == (1, 1)
    assert [line["event"] for line in logged if line["log_level"] == "error"] == [
        "loop.round_failed"
    ]


class EndlessRunner:
    """A session with the turns of `played` that never ends."""

    def __init__(self, played: SessionResult | None) -> None:
        self._played = played
        self.begun = asyncio.Event()

    async def play(self, _hooks=None) -> SessionResult:
        self.begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    def so_far(self) -> SessionResult | None:
        return self._played


async def test_a_cancelled_session_is_no_result_but_its_tokens_count():
    clock = FakeClock(monotonic=0.0)
    control = Control(ControlOutcome.COLD, False, 900, None, 0.1)
    turns = (replace(turn(1, 900, 0, 0), control=control), turn(2, 1100, 896, 896))
    runner = EndlessRunner(session(*turns, extra_tokens=33))
    admission = unlimited(clock, 3600)
    loops = ProbeLoops(clock, admission)
    task = asyncio.create_task(loops.sessions(runner).run())
    await runner.begun.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    known = 900 + 32 + 900 + 1100 + 32 + 33
    assert (loops.sink.sessions, loops.sink.tokens) == ([], [known])
    waits = asyncio.create_task(_pass(admission))
    await clock.until_asleep()
    await clock.advance(known + UNKNOWN_TURN_TOKENS - 1)  # a token a second
    assert not waits.done()
    await clock.advance(2.0)
    await waits


async def _idle_engine() -> None:
    return None


async def _pass(admission: Admission) -> None:
    async with admission.admitted():
        pass
