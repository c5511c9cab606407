"""Sessions pinned to data-parallel ranks, on a simulated engine with two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from load_views import load_policy, new_admission
from probe_loops import ProbeLoops

from exporter.clock import SystemClock
from exporter.model.engine import Rank
from exporter.model.session import LossCause, Notice
from exporter.probe.check import Check
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.runner import SessionRunner
from exporter.simulator import chat
from exporter.simulator.faults import behaviours, faults
from exporter.wording.findings.finding import Verdict

if TYPE_CHECKING:
    from exporter.model.session import SessionResult


def causes(result: SessionResult) -> set[LossCause]:
    return {turn.loss.cause for turn in result.turns if turn.loss is not None}


def ranks_of_requests(at) -> list[Rank | None]:
    """A list that gets the rank of each request to come."""
    seen: list[Rank | None] = []
    send = at.client.chat

    async def noted(request, *arguments):
        seen.append(request.context.rank)
        return await send(request, *arguments)

    at.client.chat = noted
    return seen


async def test_pinned_sessions_lose_nothing_and_take_turns_with_the_ranks(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        played = [await at.play() for _ in range(4)]
    assert [result.data_parallel_rank for result in played] == [0, 1, 0, 1]
    for result in played:
        assert result.failure is None
        assert [turn.efficiency_ratio for turn in result.turns] == [None] + [1.0] * 7


async def test_unpinned_sessions_lose_to_other_ranks_and_are_of_no_rank(bench):
    async with bench(like="dp2") as at:
        result = await at.play()
    assert causes(result) == {LossCause.OTHER_RANK}
    assert result.data_parallel_rank is None


async def test_controls_and_repeats_go_to_the_rank_of_their_session(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        seen = ranks_of_requests(at)
        control = ColdControl(1.0, lambda: 0.0, at.new_salt)
        runner = SessionRunner(at.plan, at.requests, at.new_salt, control=control)
        await runner.play()
        at.simulator.inject(faults.Wedge())  # a turn that misses is sent again
        await runner.play()
    first = seen.count(Rank(0, 0))
    assert seen == [Rank(0, 0)] * first + [Rank(1, 1)] * (len(seen) - first)
    assert first == 15
    assert len(seen) > 30


async def test_the_requests_of_an_isolation_test_meet_one_cache(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        info = await at.client.info()
        seen = ranks_of_requests(at)
        test = await run_isolation_test(at.requests, info, at.plan.deadlines, at.new_salt)
    assert set(seen) == {Rank(0, 0)}
    assert (test.ranks, test.same_salt_cached, test.other_salt_cached) == (1, test.possible, 0)


async def test_the_reads_of_a_prefix_go_to_the_rank_of_its_write(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        await at.play()  # tells the reuse rule
        clock = SystemClock()
        admission = new_admission(at.requests.observe, clock, load_policy(0))
        loops = ProbeLoops(clock, admission, at.requests, new_salt=at.new_salt)
        seen = ranks_of_requests(at)
        await loops.retention_probe((0.01, 0.02)).round(lambda: None)
    assert seen == [Rank(1, 1)] * 3
    assert [reading.ratio for reading in loops.sink.retention] == [1.0, 1.0]


async def test_check_passes_every_test_on_pinned_ranks(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        report = await Check(at.plan, at.requests, at.new_salt).run()
    assert {one.name for one in report.findings if one.verdict is not Verdict.PASS} == set()


async def test_check_names_the_setting_where_ranks_are_not_pinned(bench):
    async with bench(like="dp2") as at:
        report = await Check(at.plan, at.requests, at.new_salt).run()
    remedies = {one.name: one.remedy or "" for one in report.findings}
    for name in ("second_turn", "isolation", "wedge"):
        assert 'data_parallel_ranks = "pinned"' in remedies[name], name
        assert "router" in remedies[name], name


async def test_a_rank_that_left_is_dropped_and_the_session_goes_on_with_another(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        await at.play()
        at.simulator.inject(behaviours.PodGone("stay"))
        seen = ranks_of_requests(at)
        played = [await at.play() for _ in range(3)]
    assert [result.failure for result in played] == [None] * 3
    assert [result.data_parallel_rank for result in played] == [0, 0, 0]
    assert all(Notice.RANK_GONE in result.notices for result in played)
    assert seen.count(Rank(1, 1)) == 1, "it is tried once"
    assert all(causes(result) == set() for result in played)


async def test_a_rank_that_leaves_during_a_session_does_not_fail_it(bench):
    async with bench(like="dp2", pin_ranks=True) as at:
        await at.play()

        def gone_after_turn_3(facts):
            if facts.index == 3:
                at.simulator.inject(behaviours.PodGone("stay"))

        result = await at.play(gone_after_turn_3)
    assert (result.failure, result.data_parallel_rank, len(result.turns)) == (None, 0, 8)


async def test_an_engine_that_drops_the_header_has_losses_to_other_ranks(bench, monkeypatch):
    monkeypatch.setattr(chat, "_pinned_rank", lambda _engine, _http: None)
    async with bench(like="dp2", pin_ranks=True) as at:
        played = [await at.play() for _ in range(2)]
    assert [causes(result) for result in played] == [{LossCause.OTHER_RANK}] * 2
    assert [result.data_parallel_rank for result in played] == [None, None]


async def test_check_knows_no_isolation_where_the_header_is_dropped(bench, monkeypatch):
    monkeypatch.setattr(chat, "_pinned_rank", lambda _engine, _http: None)
    async with bench(like="dp2", pin_ranks=True) as at:
        report = await Check(at.plan, at.requests, at.new_salt).run()
    found = {one.name: one for one in report.findings}
    assert found["isolation"].verdict is Verdict.UNKNOWN
    assert "another of the 2 ranks" in found["isolation"].evidence
    assert found["second_turn"].verdict is Verdict.FAIL


async def test_a_release_that_ignores_the_header_is_not_sent_it(bench):
    async with bench(like="dp2", pin_ranks=True, version="0.13.0") as at:
        seen = ranks_of_requests(at)
        result = await at.play()
    assert set(seen) == {None}
    assert result.data_parallel_rank is None


async def test_an_engine_with_one_rank_is_sent_no_rank(bench):
    async with bench(pin_ranks=True) as at:
        seen = ranks_of_requests(at)
        result = await at.play()
    assert set(seen) == {None}
    assert result.data_parallel_rank is None
