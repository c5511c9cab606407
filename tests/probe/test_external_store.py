"""Sessions on an engine with a KV store below its own cache: what came from where, and no false loss."""

from __future__ import annotations

import pytest
from probed_engine import ProbedEngine

from exporter.model.chat import CachedTokensSource
from exporter.model.reuse import RuleCause
from exporter.model.session import ControlOutcome, LossCause, Notice
from exporter.probe.session.plan import SessionHooks
from exporter.simulator.faults import behaviours
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_isolation

CHUNK = 256
ANSWER = 16  # tokens, which the store does not keep


def causes(result):
    return {turn.index: turn.loss.cause for turn in result.turns if turn.loss}


def emptied_before_each_turn(at):
    """Hooks that empty the engine's own cache before each turn, so that the store must serve."""
    return SessionHooks(
        on_turn_start=lambda _turn, _turns: at.simulator.engine.reset_prefix_cache()
    )


def counted(at):
    """The engine's own two counters of hits."""
    found = ProbedEngine(at).snapshot()
    return found.hit_tokens, found.external_hit_tokens


def split(result):
    return [(turn.cached_tokens, turn.external_cached_tokens) for turn in result.turns]


@pytest.fixture(params=[False, True], ids=["by usage", "by counters"])
async def probed(request, bench):
    """An engine with a store, with usage details or without them."""
    details = not request.param
    async with bench(like="external-chunks", enable_prompt_tokens_details=details) as at:
        yield ProbedEngine(at, from_counters=request.param)


async def test_each_turn_is_split_as_the_engines_own_counters_are(probed):
    at = probed.at
    runner = probed.session_runner(ratio=0.0)
    await runner.play()
    await runner.play()  # finds that the store ignores salts
    before = counted(at)
    result = await runner.play(emptied_before_each_turn(at))
    local, external = (now - then for now, then in zip(counted(at), before, strict=True))
    cached = sum(turn.cached_tokens for turn in result.turns)
    found = sum(turn.external_cached_tokens for turn in result.turns)
    assert (cached - found, found) == (local, external)
    assert [turn.external_cached_tokens % CHUNK for turn in result.turns] == [0] * 8
    assert external > 3_000


async def test_usage_and_counters_give_the_same_ratios_and_the_same_split(bench):
    played = []
    for details in (True, False):
        async with bench(like="external-chunks", enable_prompt_tokens_details=details) as at:
            runner = ProbedEngine(at, from_counters=not details).session_runner(ratio=0.0)
            await runner.play()
            played.append([await runner.play(), await runner.play(emptied_before_each_turn(at))])
    by_usage, by_counters = played
    for one, other in zip(by_usage, by_counters, strict=True):
        assert split(one) == split(other)
        assert [turn.hit_ratio for turn in one.turns] == [turn.hit_ratio for turn in other.turns]
        assert causes(one) == causes(other) == {}
    assert by_counters[1].turns[3].cached_tokens_source is CachedTokensSource.COUNTERS


async def test_a_turn_that_a_store_filled_up_has_no_loss_and_gives_up_only_the_rest_of_a_chunk(
    bench,
):
    async with bench(like="external-chunks") as at:
        await at.play()
        first = await at.runner.play(emptied_before_each_turn(at))
        second = await at.runner.play(emptied_before_each_turn(at))
    assert causes(first) == causes(second) == {}
    later = second.turns[1:]
    assert all(turn.cached_tokens == turn.attainable_cached_tokens for turn in later)
    assert {turn.efficiency_ratio for turn in later} == {1.0}
    for turn in later:
        given_up = {part.cause: part.tokens for part in turn.rule_losses}
        assert set(given_up) <= {RuleCause.STORE_CHUNK}
        missing = turn.ideal_cached_tokens - turn.cached_tokens
        assert given_up.get(RuleCause.STORE_CHUNK, 0) == missing < CHUNK + ANSWER
    assert any(turn.rule_losses for turn in later)
    assert second.reuse_rule.unit_tokens == 16, "the chunk is not the unit of the own cache"
    assert Notice.MATCH_UNIT_DIFFERS not in second.notices
    assert Notice.REUSE_RULE_UNKNOWN not in first.notices | second.notices


async def test_what_the_store_lost_as_well_is_a_loss(bench):
    async with bench(like="external-chunks") as at:
        await at.play()
        await at.runner.play(emptied_before_each_turn(at))

        def lose_both(turn, _turns):
            if turn == 5:
                at.simulator.engine.reset_prefix_cache()
                at.simulator.engine.clear(behaviours.ExternalStore)

        result = await at.runner.play(SessionHooks(on_turn_start=lose_both))
    assert causes(result) == {5: LossCause.RESET}


async def test_a_session_that_the_own_cache_serves_has_nothing_from_the_store(bench):
    async with bench(like="external-chunks") as at:
        await at.play()
        result = await at.play()
    assert [turn.external_cached_tokens for turn in result.turns] == [0] * 8
    assert {turn.efficiency_ratio for turn in result.turns[1:]} == {1.0}


async def test_the_first_session_of_a_new_process_is_split_too(bench):
    async with bench(like="external-chunks") as at:
        result = await at.runner.play(emptied_before_each_turn(at))
    assert [turn.external_cached_tokens for turn in result.turns] == [
        turn.cached_tokens for turn in result.turns
    ]


async def test_the_split_is_unknown_while_the_engine_runs_other_requests(bench):
    async with bench(like="external-chunks") as at:
        await at.play()
        at.simulator.engine.inject(behaviours.Company(500))
        result = await at.runner.play(emptied_before_each_turn(at))
    assert [turn.external_cached_tokens for turn in result.turns[1:]] == [None] * 7
    assert all(turn.cached_tokens for turn in result.turns[1:])
    assert LossCause.EVICTED not in causes(result).values()


async def test_an_engine_without_a_store_has_no_external_part(bench):
    async with bench() as at:
        results = [await at.play(), await at.play()]
    assert {turn.external_cached_tokens for one in results for turn in one.turns} == {None}


async def test_own_hits_are_counted_by_tier(probed):
    runner = probed.session_runner(ratio=0.0)
    await runner.play()
    await runner.play(emptied_before_each_turn(probed.at))
    await probed.isolation_test()
    seen, own = probed.snapshot(), probed.requests.share
    assert own.external_tokens == seen.external_hit_tokens > 0
    assert own.hit_tokens - own.external_tokens == seen.hit_tokens
    assert own.unsplit == 0
    assert own == probed.published


async def test_isolation_names_the_store_and_says_no_more(probed):
    await probed.session_runner(ratio=0.0).play()
    found = of_isolation(await probed.isolation_test())
    assert found.verdict is Verdict.FAIL
    assert "from an external KV store and none from the engine's own cache" in found.evidence
    assert "The store ignores cache_salt" in found.remedy


async def test_isolation_names_no_tier_that_it_does_not_know(bench):
    async with bench(like="external-chunks") as at:
        probed = ProbedEngine(at)
        await at.play()
        at.simulator.engine.inject(behaviours.Company(500))
        found = of_isolation(await probed.isolation_test())
    assert found.verdict is Verdict.FAIL
    assert "own cache" not in found.evidence
    assert "This engine, or a KV store behind it" in found.remedy


# Transfers


@pytest.mark.parametrize("details", [True, False], ids=["by usage", "by counters"])
@pytest.mark.parametrize("like", ["pd-decode", "pd-decode-all"])
async def test_a_decode_node_has_no_hit_and_no_external_part(bench, like, details):
    async with bench(like=like, enable_prompt_tokens_details=details) as at:
        probed = ProbedEngine(at, from_counters=not details)
        runner = probed.session_runner(ratio=0.0)
        results = [await runner.play() for _ in range(2)]
        test = await probed.isolation_test()
    for result in results:
        assert Notice.TRANSFER in result.notices
        assert {turn.cached_tokens for turn in result.turns} == {None}
        assert {turn.external_cached_tokens for turn in result.turns} == {None}
        assert {turn.tokens_saved for turn in result.turns} == {None}
        assert causes(result) == {}
    assert of_isolation(test).verdict is Verdict.UNKNOWN


async def test_a_cold_control_puts_nothing_of_its_turn_into_a_store(bench):
    """The first session trusts salts, and the store ignores them."""
    async with bench(like="external") as at:
        result = await ProbedEngine(at).session_runner(ratio=1.0).play()
    later = result.turns[1:]
    assert {turn.control.outcome for turn in later} == {ControlOutcome.COLD}
    assert [turn.external_cached_tokens for turn in later] == [0] * 7
    assert {turn.efficiency_ratio for turn in later} == {1.0}
    assert Notice.HIT_BEYOND_IDEAL not in result.notices
