"""The exporter's own share is exact: the engine's counters grow by just that."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fake_clock import FakeClock
from load_views import new_admission
from probe_loops import ProbeLoops
from probed_engine import ProbedEngine, shares

from exporter.analysis.own_share import OwnShare
from exporter.engine.wire.request import ChatRequest
from exporter.model.session import LossCause
from exporter.probe.request_scope import RequestScope
from exporter.simulator.faults import faults


@pytest.mark.parametrize(
    "fault", [None, faults.Wedge(), faults.IgnoreSalts(), faults.SmallCache(blocks=400)]
)
async def test_the_engines_counters_grow_by_the_exporters_own_share(bench, fault):
    async with bench() as at:
        probed = ProbedEngine(at)
        if fault is not None:
            at.simulator.inject(fault)
        runner = probed.session_runner()
        sessions = [await runner.play()]
        await probed.isolation_test()
        sessions.append(await runner.play())
        await probed.retention()
        assert shares(probed) == probed.engine()
    assert [one.failure for one in sessions] == [None, None]
    assert probed.requests.share.unsettled == probed.requests.share.in_flight == 0


async def test_with_caching_off_nothing_is_looked_up(bench):
    async with bench(enable_prefix_caching=False) as at:
        probed = ProbedEngine(at)
        result = await probed.session_runner().play()
        assert shares(probed) == probed.engine()
    assert probed.requests.share.queried_tokens == 0
    assert probed.requests.share.prompt_tokens > 0
    assert {turn.loss.cause for turn in result.turns[1:]} == {LossCause.DISABLED}


async def test_a_dropped_first_turn_counts_even_if_the_session_fails_later(bench):
    async with bench() as at:
        at.simulator.inject(faults.IgnoreSalts())
        runner = ProbedEngine(at).session_runner(ratio=0.0)
        await runner.play()
        before = ProbedEngine(at).engine()
        chat, calls = at.client.chat, iter(range(100))

        async def fails_after_the_first(*arguments):
            if next(calls) == 1:
                at.simulator.inject(faults.Errors())
            return await chat(*arguments)

        at.client.chat = fails_after_the_first
        result = await runner.play()
        after = ProbedEngine(at).engine()
    assert (result.failed_turn, result.turns) == (1, ())
    assert result.consumed_tokens == after[2] - before[2] + after[3] - before[3] > 400


async def test_a_control_whose_turn_failed_counts_as_well(bench):
    async with bench() as at:
        probed = ProbedEngine(at)
        chat = at.client.chat
        sent = []

        async def fails_after_a_control(request, *arguments):
            sent.append(request.cache_salt)
            if len(sent) == 3:  # turn 1, the control of turn 2, turn 2
                at.simulator.inject(faults.Errors())
            return await chat(request, *arguments)

        at.client.chat = fails_after_a_control
        result = await probed.session_runner().play()
        assert result.failed_turn == 2
        assert sent[0] == sent[2] != sent[1]
        assert result.consumed_tokens == sum(probed.engine()[2:])
        assert shares(probed) == probed.engine()
    assert probed.requests.share.unknown == 1, "an error of the server's may come after a lookup"


@pytest.mark.parametrize(
    ("fault", "unknown"),
    [
        (faults.Errors(status=400), 0),
        (faults.Errors(status=503), 1),
        (faults.NoUsage(), 1),
        (faults.CutStream(after_chunks=1), 1),
    ],
)
async def test_a_request_without_usage_that_may_have_been_looked_up_is_unknown(
    bench, fault, unknown
):
    async with bench() as at:
        probed = ProbedEngine(at)
        at.simulator.inject(fault)
        info, view = await at.client.info(), await probed.observe()
        request = ChatRequest(info.model, [{"role": "user", "content": "hello"}], 8)
        await RequestScope(probed.requests, info, view).chat(request, probed.at.plan.deadlines)
    share = probed.requests.share
    assert (share.unknown, share.requests, share.in_flight) == (unknown, 0, 0)


async def test_a_session_that_is_cut_off_leaves_one_unknown_request_and_none_in_flight(bench):
    async with bench() as at:
        probed = ProbedEngine(at)
        begun = asyncio.Event()
        chat, turns = at.client.chat, []

        async def hangs_in_turn_3(request, *arguments):
            turns.append(request)
            if len(turns) == 3:
                assert probed.requests.share.in_flight == 1
                begun.set()
                await asyncio.Event().wait()
            return await chat(request, *arguments)

        at.client.chat = hangs_in_turn_3
        clock = FakeClock()
        admission = new_admission(probed.observe, clock)
        loops = ProbeLoops(clock, admission)
        loop = loops.sessions(probed.session_runner(ratio=0.0))
        task = asyncio.create_task(loop.run())
        await asyncio.wait_for(begun.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert shares(probed) == probed.engine()
        assert loops.sink.tokens == [sum(probed.engine()[2:])]
        assert loops.sink.sessions == []
    share = probed.requests.share
    assert (share.requests, share.unknown, share.in_flight) == (2, 1, 0)


async def test_requests_of_the_exporter_between_two_turns_are_not_foreign(bench):
    async with bench() as at:
        probed = ProbedEngine(at)
        info, view = await at.client.info(), await probed.observe()
        pass_, numbers = RequestScope(probed.requests, info, view), iter(range(100))

        async def read():
            text = f"{next(numbers)} a prefix that is read " * 20
            request = ChatRequest(info.model, [{"role": "user", "content": text}], 1, "retention")
            await pass_.chat(request, probed.at.plan.deadlines)

        probed.requests.yield_turn = read

        def reset(facts):
            if facts.index == 4:
                at.simulator.engine.reset_prefix_cache()

        runner = probed.session_runner()
        at.runner = runner
        result = await at.play(reset)
    assert {turn.index: turn.loss.cause for turn in result.turns if turn.loss} == {
        5: LossCause.RESET
    }
    assert "other requests used only 0 tokens" in result.turns[4].loss.evidence


async def test_cold_controls_do_not_hide_that_only_the_engine_counts_the_hits(bench):
    async with bench() as at:
        chat = at.client.chat

        async def through_a_proxy(request, *arguments):
            answer = await chat(request, *arguments)
            return replace(answer, usage=replace(answer.usage, cached_tokens=0))

        at.client.chat = through_a_proxy
        result = await ProbedEngine(at).session_runner().play()
    assert {turn.loss.cause for turn in result.turns[1:]} == {LossCause.UNREPORTED}


def test_a_share_is_quiet_a_second_after_the_last_request():
    share = OwnShare().plus(OwnShare(in_flight=1))
    assert OwnShare().quiet(0.0)
    assert not share.quiet(1e9)
    ended = share.plus(OwnShare(in_flight=-1, last_ended_at=10.0))
    assert not ended.quiet(10.9)
    assert ended.quiet(11.0)
