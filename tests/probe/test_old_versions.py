"""Versions of vLLM before 0.24, which leave a 0 out of usage, get the findings of newer ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from probed_engine import ProbedEngine, shares

from exporter.engine.wire.request import ChatRequest
from exporter.metrics.state.target import ProbeSums, TargetState
from exporter.model.chat import CachedTokensSource
from exporter.model.probe import RetentionUnknown
from exporter.model.session import ControlOutcome, LossCause, Notice
from exporter.probe.check import Check
from exporter.simulator.faults import behaviours, faults
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_isolation, of_wedge
from exporter.wording.findings.session import of_usage_details
from exporter.wording.notices import ADVICE

OLD = ("0.9.2", "0.10.2", "0.17.1", "0.22.1", "0.23.0")
NEW = "0.24.0"


def before_turn(at, number, act):
    """Call `act` before the request of turn `number`. Repeats and controls are not counted."""
    chat, salts, turns = at.client.chat, [], []

    async def disturbed(request, *arguments):
        salts.append(request.cache_salt)
        if request.max_tokens > 1 and request.cache_salt == salts[0]:
            turns.append(request)
            if len(turns) == number:
                await act()
        return await chat(request, *arguments)

    at.client.chat = disturbed


async def others_use(at, sessions):
    """That many prompts of other clients, each under its own salt."""
    for number in range(sessions):
        text = f"Other {number}. " + "lorem ipsum dolor sit amet " * 220
        request = ChatRequest("simulated", [{"role": "user", "content": text}], 1, f"o{number}")
        assert (await at.client.chat(request, at.plan.deadlines)).failure is None


def resets(at, *before_turns):
    """Empty the cache before these turns."""
    for turn in before_turns:

        async def reset():
            at.simulator.engine.reset_prefix_cache()

        before_turn(at, turn, reset)


def strangers_hit(at):
    """Another client's request that hits runs beside each of ours."""
    chat, numbers = at.client.chat, itertools.count()

    async def beside(request, *arguments):
        text = "A prompt that a stranger repeats. " * 60
        other = ChatRequest("simulated", [{"role": "user", "content": text}], 1, "stranger")
        answer = await chat(request, *arguments)
        for _ in range(1 + (next(numbers) == 0)):
            assert (await chat(other, *arguments)).failure is None
        return answer

    at.client.chat = beside


def wedged(at):
    at.simulator.inject(faults.Wedge())


def nothing(_at):
    """Do nothing to the engine."""


def reset_once(at):
    resets(at, 5)


def reset_all_the_time(at):
    resets(at, 2, 3, 4, 6, 7)


def restarted(at):
    before_turn(at, 4, at.simulator.engine.restart)


def small(at):
    before_turn(at, 4, lambda: others_use(at, sessions=40))


def of_each_turn(result):
    return [
        (turn.cached_tokens, turn.ideal_cached_tokens, turn.loss and turn.loss.cause)
        for turn in result.turns
    ]


def sums(result) -> ProbeSums:
    state = TargetState("t")
    state.session_finished(result)
    return state.sums


async def played(bench, version, act, **settings):
    async with bench(version=version, **settings) as at:
        probed = ProbedEngine(at)
        at.runner = probed.session_runner()
        act(at)
        return probed, await at.play()


@pytest.mark.parametrize("version", ["0.8.5", "0.9.2"])
async def test_a_v0_engine_on_a_cpu_is_not_told_only_to_set_a_flag_that_may_be_set(bench, version):
    # Its worker reports no cached tokens, whatever the flags, and it has no counters of lookups.
    async with bench(version=version, v0=True, enable_prompt_tokens_details=False) as at:
        report = await Check(at.plan, at.requests, at.new_salt).run()
        session = await at.play()
    found = {one.name: one for one in report.findings}
    assert Notice.CACHED_TOKENS_UNKNOWN in session.notices
    for said in (found["usage_details"].remedy, ADVICE[Notice.CACHED_TOKENS_UNKNOWN]):
        assert "If the flag is set" in said
        assert "the V0 engine on a CPU" in said
    assert "not report" in found["usage_details"].evidence
    rule = found["reuse_rule"]
    assert rule.verdict is Verdict.UNKNOWN
    assert rule.evidence.startswith("the server does not report how many tokens were cached")
    assert rule.remedy is None


@pytest.mark.parametrize("version", ["0.10.2", "0.22.1"])
@pytest.mark.parametrize(
    ("act", "settings"),
    [
        (nothing, {}),
        (nothing, {"log_stats": False}),
        (nothing, {"enable_prefix_caching": False}),
        (reset_once, {}),
        (reset_once, {"log_stats": False}),
        (reset_all_the_time, {}),
        (restarted, {}),
        (wedged, {}),
        (small, {"num_blocks": 400}),
        (strangers_hit, {}),
    ],
)
async def test_an_old_engine_gets_the_same_findings_as_a_new_one(bench, version, act, settings):
    _, old = await played(bench, version, act, **settings)
    _, new = await played(bench, NEW, act, **settings)
    assert of_each_turn(old) == of_each_turn(new)
    # Without kv_cache_size_tokens three hits of one process tell the rule. Here there are two.
    open_rule = {Notice.REUSE_RULE_UNKNOWN} if act in (reset_all_the_time, restarted) else set()
    assert old.notices == new.notices | open_rule
    # A miss by the counters gets no overlapping repeats.
    more = new.extra_tokens - old.extra_tokens
    assert more == 0 or (act is wedged and old.extra_tokens > 0)
    assert {turn.control.outcome for turn in old.turns[1:]} == {ControlOutcome.COLD}
    if not open_rule:
        consumed = (sums(old).consumed_tokens or 0) + more
        assert replace(sums(old), consumed_tokens=consumed) == sums(new)


@pytest.mark.parametrize("version", OLD)
async def test_a_healthy_old_engine_has_every_figure_and_no_notice(bench, version):
    async with bench(version=version) as at:
        probed = ProbedEngine(at)
        result = await probed.session_runner().play()
        test = await probed.isolation_test()
        await probed.retention()
        assert shares(probed) == probed.engine()
    assert not result.notices & {
        *(Notice.USAGE_DETAILS_MISSING, Notice.CACHED_TOKENS_UNKNOWN, Notice.CACHED_FROM_COUNTERS)
    }
    assert [turn.cached_tokens > 0 for turn in result.turns] == [False] + [True] * 7
    assert {turn.control.outcome for turn in result.turns[1:]} == {ControlOutcome.COLD}
    assert {turn.cached_tokens_source for turn in result.turns} == {CachedTokensSource.USAGE}
    assert (test.first_cached, test.other_salt_cached) == (0, 0)
    assert test.same_salt_cached == test.possible
    for finding in (of_usage_details(result), of_isolation(test), of_wedge(test)):
        assert finding.verdict == "pass", finding


async def test_a_cache_that_is_emptied_all_the_time_has_its_true_ratio(bench):
    async with bench(version="0.22.1") as at:
        probed = ProbedEngine(at)
        at.runner = probed.session_runner()
        await at.play()  # tells the reuse rule
        reset_all_the_time(at)
        result = await at.play()
    total = sums(result)
    assert total.prompt_tokens == sum(turn.prompt_tokens for turn in result.turns)
    assert total.cached_tokens / total.prompt_tokens < 0.35
    lost = sum(total.lost_tokens.values())
    assert lost == total.ideal_cached_tokens - total.cached_tokens
    assert lost / total.ideal_cached_tokens > 0.6
    assert total.lost_tokens[LossCause.RESET] == lost
    assert probed.requests.share.unsettled == 0


async def test_with_caching_off_an_old_engine_loses_all_to_that_and_waits_for_nothing(bench):
    async with bench(version="0.22.1", enable_prefix_caching=False) as at:
        sleeps = []
        probed = ProbedEngine(at, from_counters=True)

        class Clock:
            time = staticmethod(probed.requests.clock.time)
            monotonic = staticmethod(probed.requests.clock.monotonic)

            async def sleep(self, seconds):
                sleeps.append(seconds)

        probed.requests.clock = Clock()
        result = await probed.session_runner(ratio=0.0).play()
    assert {turn.loss.cause for turn in result.turns[1:]} == {LossCause.DISABLED}
    assert result.notices == {Notice.SIMULATED, Notice.PREFIX_CACHING_DISABLED}
    assert probed.requests.share.requests == 8
    assert sleeps == []
    assert of_usage_details(result).verdict == "unknown"


# Without the flag


@pytest.mark.parametrize("version", ["0.10.2", "0.22.1", "0.24.0", "0.32.0"])
async def test_a_missing_flag_is_reported_for_every_version(bench, version):
    async with bench(version=version, enable_prompt_tokens_details=False) as at:
        probed = ProbedEngine(at)
        runner = probed.session_runner()
        results = [await runner.play(), await runner.play()]
        test = await probed.isolation_test()
        read = await probed.retention()
    for result in results:
        assert {turn.cached_tokens for turn in result.turns} == {None}
        assert Notice.USAGE_DETAILS_MISSING in result.notices
        assert {turn.control.outcome for turn in result.turns[1:]} == {ControlOutcome.UNREPORTED}
        assert sums(result).cached_tokens is None
        assert of_usage_details(result).verdict == "fail"
    assert test.leaked is None
    assert {reading.unknown for reading in read} == {RetentionUnknown.UNREPORTED}


async def test_without_flag_and_counters_an_old_engine_is_not_known_to_lack_the_flag(bench):
    off = {"enable_prompt_tokens_details": False}
    _, silent = await played(bench, "0.22.1", nothing, log_stats=False, **off)
    _, dead = await played(bench, "0.22.1", wedged, log_stats=False)
    for result in (silent, dead):
        assert Notice.CACHED_TOKENS_UNKNOWN in result.notices
        assert Notice.USAGE_DETAILS_MISSING not in result.notices
        assert of_usage_details(result).verdict == "unknown"


async def test_zeros_that_may_be_hits_of_a_server_without_the_flag_are_in_no_sum(bench):
    async with bench(version="0.22.1", enable_prompt_tokens_details=False) as at:
        strangers_hit(at)
        result = await ProbedEngine(at).session_runner(ratio=0.0).play()
    known = [turn.cached_tokens for turn in result.turns]
    assert None in known
    assert set(known) <= {0, None}
    assert sums(result).cached_tokens is None


# Cached tokens from counters, with the setting


async def test_counters_that_tell_everything_pass_the_check(bench):
    async with bench(version="0.22.1", enable_prompt_tokens_details=False) as at:
        result = await ProbedEngine(at, from_counters=True).session_runner().play()
    assert [turn.cached_tokens for turn in result.turns][:1] == [0]
    assert all(turn.cached_tokens == turn.ideal_cached_tokens for turn in result.turns)
    assert {turn.cached_tokens_source for turn in result.turns} == {CachedTokensSource.COUNTERS}
    assert result.notices == {Notice.SIMULATED, Notice.CACHED_FROM_COUNTERS}
    found = of_usage_details(result)
    assert found.verdict == "pass"
    assert "8 of 8 turns" in found.evidence


async def test_counters_that_tell_some_turns_leave_a_failure_with_the_flag(bench):
    async with bench(version="0.32.0", enable_prompt_tokens_details=False) as at:
        before_turn(at, 4, lambda: others_use(at, sessions=1))
        result = await ProbedEngine(at, from_counters=True).session_runner(ratio=0.0).play()
    found = of_usage_details(result)
    assert found.verdict == "fail"
    assert "7 of 8 turns" in found.evidence
    assert "--enable-prompt-tokens-details" in found.remedy


async def test_a_miss_after_a_hit_is_a_loss_where_counters_stand_in(bench):
    async with bench(version="0.23.0") as at:
        at.runner = ProbedEngine(at, from_counters=True).session_runner(ratio=0.0)
        reset_once(at)
        result = await at.play()
    assert [turn.cached_tokens for turn in result.turns if turn.index in (1, 5)] == [0, 0]
    assert {turn.index: turn.loss.cause for turn in result.turns if turn.loss} == {
        5: LossCause.RESET
    }
    assert result.notices == {Notice.SIMULATED}


# Gateways


async def test_a_gateway_that_drops_zeros_changes_nothing(bench):
    async with bench(behaviours=(behaviours.OmitEmpty(),)) as at:
        probed = ProbedEngine(at)
        at.runner = probed.session_runner()
        reset_once(at)
        result = await at.play()
        assert shares(probed) == probed.engine()
    assert [turn.cached_tokens for turn in result.turns if turn.index in (1, 5)] == [0, 0]
    assert {turn.control.outcome for turn in result.turns[1:]} == {ControlOutcome.COLD}
    assert result.notices == {Notice.SIMULATED}


async def test_a_gateway_that_begins_to_drop_the_field_makes_no_misses_of_hits(bench):
    async with bench(version="0.22.1") as at:
        runner = ProbedEngine(at).session_runner(ratio=0.0)
        await runner.play()
        chat = at.client.chat

        async def without_details(*arguments):
            answer = await chat(*arguments)
            return replace(answer, usage=replace(answer.usage, cached_tokens=None))

        at.client.chat = without_details
        result = await runner.play()
    assert {turn.cached_tokens for turn in result.turns[1:]} == {None}
    assert not any(turn.loss for turn in result.turns)
    assert Notice.CACHED_TOKENS_UNKNOWN in result.notices
