"""The reuse rule while sessions run: when it becomes clear, what is asked for it, what it forgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.analysis.reuse.rule import Rule
from exporter.model.session import LossCause, Notice
from exporter.probe.isolation import run_isolation_test
from exporter.simulator.faults import faults

LARGE = {"num_blocks": 20_000}
OLD = "0.23.0"  # without kv_cache_size_tokens, so answers may be kept or not


def serve(at, change):
    """Let `change` make the cached tokens of each answer, from those of the simulator."""
    chat = at.client.chat

    async def changed(request, *arguments):
        answer = await chat(request, *arguments)
        usage = answer.usage
        cached = change(request, usage.prompt_tokens, usage.cached_tokens)
        return replace(answer, usage=replace(usage, cached_tokens=cached))

    at.client.chat = changed


def count(at):
    """The prompts that are sent, by their messages."""
    chat, sent = at.client.chat, []

    async def counted(request, *arguments):
        sent.append((request.cache_salt, len(request.messages)))
        return await chat(request, *arguments)

    at.client.chat = counted
    return sent


def repeats(sent):
    return len(sent) - len(set(sent))


def attainable(result):
    return [turn.attainable_cached_tokens for turn in result.turns[1:]]


def cached(result):
    return [turn.cached_tokens for turn in result.turns[1:]]


async def test_turns_before_the_rule_was_clear_are_settled_in_the_result(bench):
    live = []
    async with bench(like="hybrid-528", **LARGE) as at:
        result = await at.play(live.append)
    assert [one.attainable_cached_tokens for one in live[1:3]] == [None, None]
    assert [one.efficiency_ratio for one in live[1:3]] == [None, None]
    assert attainable(result) == cached(result)
    assert Notice.REUSE_RULE_UNKNOWN not in result.notices


async def test_one_repeat_in_a_process_tells_a_dropped_block_from_an_answer_that_is_not_kept(bench):
    """Each answer has as many tokens as a block."""
    async with bench(like="eagle", version=OLD, max_tokens=17, **LARGE) as at:
        sent = count(at)
        results = [await at.play() for _ in range(3)]
    assert repeats(sent) == 1
    assert at.requests.knowledge.learned.rule == Rule(16, 1)
    assert at.requests.knowledge.learned.others == ()
    assert all(attainable(result) == cached(result) for result in results)


async def test_a_repeat_that_tells_nothing_is_not_sent_once_more(bench):
    async with bench(like="eagle", version=OLD, max_tokens=17, **LARGE) as at:
        serve(at, lambda request, _prompt, hit: None if request.max_tokens == 1 else hit)
        sent = count(at)
        for _ in range(2):
            await at.play()
    assert repeats(sent) == 1
    assert at.requests.knowledge.learned.others


async def test_nothing_is_sent_again_where_metrics_tell_the_rules_apart(bench):
    async with bench(like="eagle", max_tokens=17, **LARGE) as at:
        sent = count(at)
        results = [await at.play() for _ in range(3)]
    assert repeats(sent) == 0
    assert at.requests.knowledge.learned.rule == Rule(16, 1)
    assert all(attainable(result) == cached(result) for result in results)


async def test_a_plain_engine_is_sent_nothing_twice(bench):
    async with bench() as at:
        sent = count(at)
        results = [await at.play() for _ in range(2)]
    assert repeats(sent) == 0
    assert all(attainable(result) == cached(result) for result in results)


async def test_hits_that_no_rule_explains_leave_attainable_unknown_with_a_notice(bench):
    """Some engines serve a prompt only at its third sending."""
    async with bench(like="late-hits") as at:
        result = await at.play()
    assert Notice.REUSE_RULE_UNKNOWN in result.notices
    assert attainable(result) == [None] * 7
    assert result.reuse_rule is None
    assert all(turn.loss is None for turn in result.turns)


async def test_a_hit_above_the_rule_disproves_it(bench):
    """As after a flag was changed at run time: the engine drops no block any more."""
    async with bench(like="eagle", **LARGE) as at:
        await at.play()
        assert at.requests.knowledge.learned.rule == Rule(16, 1)
        serve(at, lambda _request, _prompt, hit: hit + 16 if hit else 0)
        second, third = await at.play(), await at.play()
    assert not any(turn.loss for turn in (*second.turns, *third.turns))
    assert at.requests.knowledge.learned.rule == Rule(16)
    assert attainable(third) == cached(third)


async def test_a_rule_that_metrics_exclude_is_taken_after_three_short_hits(bench):
    """The counters on /metrics are those of a plain engine."""
    async with bench() as at:
        serve(at, lambda _request, _prompt, hit: max(0, hit - 16))
        result = await at.play()
    assert at.requests.knowledge.learned.rule == Rule(16, 1)
    assert attainable(result) == cached(result)
    assert all(turn.loss is None for turn in result.turns)


async def test_short_hits_of_several_ranks_teach_nothing(bench):
    async with bench() as at:
        page = at.client.metrics

        async def metrics(url=None):
            """Each series a second time, as of another rank."""
            text = (await page()).decode()
            lines = text.splitlines(keepends=True)
            other = [
                one.replace('engine="0"', 'engine="1"') for one in lines if 'engine="0"' in one
            ]
            return "".join([*lines, *other]).encode()

        at.client.metrics = metrics
        serve(at, lambda _request, _prompt, hit: max(0, hit - 16))
        result = await at.play()
    assert at.requests.knowledge.learned.rule == Rule(16)
    assert {turn.loss.cause for turn in result.turns[1:]} == {LossCause.OTHER_RANK}


async def test_several_engines_teach_nothing(bench):
    async with bench(like="shuffled-replicas") as at:
        for _ in range(3):
            await at.play()
        known = at.requests.knowledge.learned
    assert known is None or known.rule == Rule(16)


async def test_without_token_ids_attainable_is_unknown(bench):
    async with bench(like="hybrid-528", **LARGE) as at:
        at.simulator.inject(faults.NoTokenIds())
        at.simulator.inject(faults.NoTokenize())
        results = [await at.play() for _ in range(2)]
    for result in results:
        assert attainable(result) == [None] * 7
        assert all(turn.efficiency_ratio is None for turn in result.turns)
        assert Notice.TOKEN_IDS_MISSING in result.notices
        assert Notice.REUSE_RULE_UNKNOWN not in result.notices


@pytest.mark.parametrize("like", ["hybrid-528", "eagle-hybrid"])
async def test_a_new_process_forgets_the_rule(bench, like):
    async with bench(like=like, max_tokens=32, **LARGE) as at:
        await at.play()
        before = at.requests.knowledge.learned
        assert before.rule.unit_tokens == 528
        await at.simulator.engine.restart()
        live = []
        again = await at.play(live.append)
        assert live[1].attainable_cached_tokens is None
        assert at.requests.knowledge.learned.rule == before.rule
    assert attainable(again) == cached(again)


async def test_a_restart_within_a_session_forgets_the_rule_and_is_the_cause(bench):
    async with bench(like="hybrid-528", **LARGE) as at:
        await at.play()

        chat, turns = at.client.chat, []

        async def restarted(request, *arguments):
            turns.append(request)
            if len(turns) == 5:
                await at.simulator.engine.restart()
            return await chat(request, *arguments)

        at.client.chat = restarted
        result = await at.play()
    assert result.turns[4].loss.cause is LossCause.RESTART
    assert [turn.index for turn in result.turns if turn.loss] == [5]
    # Turns before the restart keep what the process before could serve; turn 5 lost that.
    assert attainable(result)[:3] == cached(result)[:3]
    assert None not in attainable(result)[:4]
    assert result.turns[4].loss.tokens == result.turns[4].attainable_cached_tokens > 0


async def isolated(at):
    info = await at.client.info()
    return await run_isolation_test(at.requests, info, at.plan.deadlines, at.new_salt)


async def test_the_repeat_of_an_isolation_test_shows_part_of_the_rule(bench):
    """A repeat has no answer to reuse, so it tells a dropped block from an answer not kept."""
    async with bench(like="eagle", version=OLD, **LARGE) as at:
        test = await isolated(at)
        (seen,) = at.requests.knowledge.remembered(1.0).hits
        assert (seen.cached, seen.disturbed) == (test.same_salt_cached, False)
        await at.play()
        again = await isolated(at)
    assert test.possible is None, "one hit shows no rule"
    assert again.possible == again.same_salt_cached
    assert again.possible < (again.prompt_tokens - 1) // 16 * 16, "a block less"


async def test_the_repeat_of_an_isolation_test_on_two_ranks_shows_no_rule(bench):
    async with bench(like="dp2", **LARGE) as at:
        await isolated(at)
        assert at.requests.knowledge.remembered(1.0).hits == ()
