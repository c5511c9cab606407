"""Sessions on demand: within the limits, one at a time, and beside the scheduled ones."""

from __future__ import annotations

import asyncio
import time

import pytest
from fleet_bench import shared, target

from exporter.model.failure import FailureReason
from exporter.model.on_demand import IN_PROGRESS, STOPPING, OnDemandOutcome
from exporter.model.probe import PauseReason
from exporter.scenario.library import NoSuchScenarioError
from exporter.simulator.faults import faults

LONG = 30.0  # seconds that a client waits


async def alone(bench, engine, **probe):
    """The target `a`, whose scheduled sessions come once an hour; the first has ended."""
    options = {"interval_seconds": 3600.0, **probe}
    await bench.fleet.apply([target("a", engine.url)], shared(**options))
    await bench.sessions_of("a", 1)


def play(bench, scenario=None, seconds=LONG):
    return bench.fleet.play_on_demand("a", scenario, seconds)


async def test_a_session_is_played_and_counts_in_the_own_share_and_in_no_session_of_the_target(
    bench, engines
):
    await alone(bench, engines[0])
    names = ("vllm_probe_consumed_tokens_total", "vllm_probe_queried_tokens_total")
    before = [bench.value(name, target="a") for name in names]
    last = bench.metrics.targets["a"].last_session
    answer = await play(bench, "tool-trace")
    assert answer.outcome is OnDemandOutcome.FINISHED
    assert answer.session.scenario == "tool-trace"
    assert len(answer.session.turns) > 1
    after = [bench.value(name, target="a") for name in names]
    assert after[0] - before[0] == answer.session.consumed_tokens
    assert after[1] > before[1]
    assert bench.value("vllm_probe_sessions_total", target="a") == 1
    assert bench.metrics.targets["a"].last_session is last


async def test_without_a_scenario_it_is_the_one_that_the_target_plays(bench, engines):
    await alone(bench, engines[0], scenario="document-review")
    assert (await play(bench)).session.scenario == "document-review"


async def test_a_scenario_is_a_name_and_never_a_path(bench, engines, tmp_path):
    await alone(bench, engines[0])
    file = tmp_path / "mine.json"
    file.write_text("{}")
    with pytest.raises(NoSuchScenarioError, match="there are: coding-agent, document-review"):
        await play(bench, str(file))


async def test_the_budget_of_scheduled_sessions_refuses_it_and_says_for_how_long(bench, engines):
    await alone(bench, engines[0], tokens_per_hour=20_000)
    answer = await play(bench)
    assert (answer.outcome, answer.reason) == (OnDemandOutcome.REFUSED, PauseReason.BUDGET)
    assert answer.session is None
    assert 60 < answer.retry_seconds < 7200


async def test_it_spends_the_budget_of_scheduled_sessions(bench, engines):
    await alone(bench, engines[0], tokens_per_hour=10_000_000)
    first = await play(bench)
    while first.outcome is OnDemandOutcome.REFUSED:  # the scheduled one is being paid for
        await asyncio.sleep(min(1.0, first.retry_seconds))
        first = await play(bench)
    second = await play(bench)
    assert second.reason == PauseReason.BUDGET
    cost = first.session.consumed_tokens * 3600 / 10_000_000
    assert second.retry_seconds == pytest.approx(cost, abs=0.5)


async def test_an_engine_without_users_is_no_reason_to_refuse_it(bench, engines):
    await alone(bench, engines[0], quiet_after_seconds=0.01)
    assert (await play(bench)).outcome is OnDemandOutcome.FINISHED


async def test_there_is_one_at_a_time_for_each_target(bench, engines):
    await alone(bench, engines[0])
    engines[0].inject(faults.Hang())
    first = asyncio.create_task(play(bench))
    await bench.until("the request runs", lambda: running(engines[0]) == 1)
    second = await play(bench)
    assert (second.outcome, second.reason) == (OnDemandOutcome.REFUSED, IN_PROGRESS)
    engines[0].clear()
    assert (await first).outcome is OnDemandOutcome.FINISHED


async def test_it_waits_for_the_scheduled_session_that_is_running(bench, engines):
    engines[0].inject(faults.Hang())
    await bench.fleet.apply([target("a", engines[0].url)], shared(interval_seconds=3600.0))
    await bench.until("the scheduled session runs", lambda: running(engines[0]) == 1)
    impatient = await play(bench, seconds=0.2)
    assert (impatient.outcome, impatient.reason) == (OnDemandOutcome.REFUSED, IN_PROGRESS)
    patient = asyncio.create_task(play(bench))
    await asyncio.sleep(0.1)
    engines[0].clear()
    assert (await patient).outcome is OnDemandOutcome.FINISHED
    assert bench.value("vllm_probe_sessions_total", target="a") == 1


async def test_a_session_that_is_too_slow_for_the_client_ends_with_the_turns_so_far(bench, engines):
    await alone(bench, engines[0])
    engines[0].inject(faults.Hang())
    began = time.monotonic()
    answer = await play(bench, seconds=0.5)
    assert time.monotonic() - began < 5
    assert answer.outcome is OnDemandOutcome.TIMEOUT
    assert answer.session.failure.reason is FailureReason.TURN_TIMEOUT
    await bench.until("the engine's request ended", lambda: running(engines[0]) == 0)


async def test_a_client_that_hangs_up_ends_the_session_and_the_next_can_play(bench, engines):
    await alone(bench, engines[0])
    engines[0].inject(faults.Hang())
    before = bench.value("vllm_probe_consumed_tokens_total", target="a")
    session = asyncio.create_task(play(bench))
    await bench.until("the request runs", lambda: running(engines[0]) == 1)
    session.cancel()
    await asyncio.gather(session, return_exceptions=True)
    assert session.cancelled()
    await bench.until("the engine's request ended", lambda: running(engines[0]) == 0)
    engines[0].clear()
    assert (await play(bench)).outcome is OnDemandOutcome.FINISHED
    assert bench.value("vllm_probe_consumed_tokens_total", target="a") > before


async def test_a_target_that_stops_ends_its_session_at_once(bench, engines):
    await alone(bench, engines[0])
    engines[0].inject(faults.Hang())
    session = asyncio.create_task(play(bench))
    await bench.until("the request runs", lambda: running(engines[0]) == 1)
    await bench.fleet.apply([])
    answer = await session
    assert (answer.outcome, answer.reason) == (OnDemandOutcome.REFUSED, STOPPING)
    assert (await play(bench)).reason == STOPPING


async def test_an_engine_that_refuses_connections_is_a_failed_session(bench, engines):
    await alone(bench, engines[0])
    await engines[0].stop()
    answer = await play(bench)
    assert answer.outcome is OnDemandOutcome.FAILED
    assert answer.reason == FailureReason.CONNECTION_REFUSED


def running(engine) -> int:
    return sum(rank.running for rank in engine.engine.ranks)
