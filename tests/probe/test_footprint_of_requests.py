"""What the exporter's requests leave in the cache: new KV, in whole blocks."""

from dataclasses import replace
from math import ceil

import pytest

from exporter.probe.isolation import run_isolation_test

BLOCK = 16
SMALL_CACHE = {"block_size": BLOCK, "num_blocks": 5000}  # 80,000 tokens
DEFAULT_ANSWER = {"max_tokens": 32}


def whole_blocks(tokens):
    return ceil(tokens / BLOCK) * BLOCK


def written(turns):
    return sum(
        whole_blocks(turn.prompt_tokens + turn.completion_tokens) - turn.cached_tokens
        for turn in turns
    )


async def test_a_session_leaves_at_most_1250_tokens_in_a_cache_of_80000(bench):
    async with bench(**SMALL_CACHE, **DEFAULT_ANSWER) as at:
        result = await at.play()
    assert len(result.turns) == 8
    assert 400 <= result.turns[0].prompt_tokens <= 450
    assert written(result.turns) <= 1250


@pytest.mark.parametrize("blocks", [31_250, 125_000])
async def test_a_large_cache_gets_the_long_opening(bench, blocks):
    async with bench(block_size=BLOCK, num_blocks=blocks, **DEFAULT_ANSWER) as at:
        result = await at.play()
    assert 2048 <= result.turns[0].prompt_tokens <= 2048 * 1.1
    assert written(result.turns) <= 3000


def without_capacity(view):
    cache = view.snapshot.cache
    known = replace(view.snapshot, cache=replace(cache, capacity_tokens=None))
    return replace(view, snapshot=known)


async def test_a_reading_that_fails_does_not_change_the_length(bench):
    async with bench(**SMALL_CACHE) as at:
        first = await at.play()
        observe = at.requests.observe

        async def without_a_reading():
            return replace(await observe(), snapshot=None)

        at.requests.observe = without_a_reading
        second = await at.play()
    assert second.turns[0].prompt_tokens == first.turns[0].prompt_tokens


async def test_without_a_known_capacity_the_opening_is_long(bench):
    async with bench(**SMALL_CACHE) as at:
        observe = at.requests.observe

        async def of_unknown_size():
            return without_capacity(await observe())

        at.requests.observe = of_unknown_size
        result = await at.play()
    assert result.turns[0].prompt_tokens >= 2048


async def test_a_plan_decides_how_long_the_opening_is(bench):
    """The length is part of what a fit is kept by."""
    seen = []
    async with bench(**SMALL_CACHE) as at:
        plan = at.plan
        for wanted in (900, 1200):

            def opening(unit, capacity, wanted=wanted):
                seen.append((unit, capacity))
                return wanted

            at.runner._plan = replace(plan, opening=opening)
            result = await at.play()
            assert wanted <= result.turns[0].prompt_tokens <= wanted * 1.2
    assert set(seen) == {(BLOCK, 80_000)}


async def test_while_the_label_may_be_far_too_small_the_opening_is_long(bench):
    """A hybrid engine that says 16: eight true units are not known before hits show them."""
    async with bench(like="hybrid-528", num_blocks=5000, max_tokens=32) as at:
        first = await at.play()
    assert at.requests.knowledge.unit == 528
    assert first.turns[0].prompt_tokens >= 2048


async def test_the_isolation_test_leaves_two_short_prompts(bench):
    async with bench(**SMALL_CACHE) as at:
        await at.play()  # shows that no store is behind the engine
        info, sent = await at.client.info(), []
        chat = at.client.chat

        async def noted(*arguments):
            answer = await chat(*arguments)
            sent.append(answer.usage)
            return answer

        at.client.chat = noted
        test = await run_isolation_test(at.requests, info, at.plan.deadlines, at.new_salt)
    assert (test.same_salt_cached, test.other_salt_cached) == (test.possible, 0)
    assert 3 * BLOCK < test.prompt_tokens <= 6 * BLOCK
    assert len(sent) == 3
    left = sum(
        whole_blocks(one.prompt_tokens + one.completion_tokens) - one.cached_tokens for one in sent
    )
    assert left <= 3 * whole_blocks(test.prompt_tokens)
