"""How many prompt tokens the cache serves, and what the counters say of it."""

from __future__ import annotations

import pytest
from conversation import TOOLS, Ideal, opening, play
from wire_client import fresh_salt, until


async def block_size(engine):
    return int((await engine.cache_config())["block_size"])


@pytest.mark.engines("details32", "details128")
async def test_each_turn_of_a_session_is_served_what_the_formula_says(engine):
    block = await block_size(engine)
    ideal = Ideal(block)
    turns = await play(engine, 8, 9 * block, salt=fresh_salt(), max_tokens=40)
    expected = []
    for turn in turns:
        prompt = turn.chunks[0]["prompt_token_ids"]
        expected.append(ideal.of(prompt))
        ideal.add(prompt, turn.token_ids)
    assert [turn.cached for turn in turns] == expected
    assert turns[0].cached == 0
    assert all(turn.cached >= 8 * block for turn in turns[1:])


async def test_tools_in_the_prompt_are_cached_like_all_the_rest(engine):
    block = await block_size(engine)
    ideal = Ideal(block)
    turns = await play(engine, 3, 60, salt=fresh_salt(), tools=TOOLS, tool_choice="none")
    for turn in turns:
        prompt = turn.chunks[0]["prompt_token_ids"]
        assert turn.cached == ideal.of(prompt)
        ideal.add(prompt, turn.token_ids)


@pytest.mark.engines("details32", "details128")
@pytest.mark.parametrize("over", [-1, 0, 1])
async def test_around_a_block_boundary_a_repeated_prompt_hits_whole_blocks_only(engine, over):
    block = await block_size(engine)
    messages = await engine.messages_of(2 * block + over)
    salt = fresh_salt()
    first = await engine.stream(messages, cache_salt=salt, max_tokens=2)
    again = await engine.stream(messages, cache_salt=salt, max_tokens=2)
    length = first.usage["prompt_tokens"]
    assert length == 2 * block + over
    assert (first.cached, again.cached) == (0, (length - 1) // block * block)


async def test_an_answer_counts_without_its_last_token(engine):
    block = await block_size(engine)
    for length in (block, block + 1):
        # The prompt ends one token into a block, so that the answer fills it or just not.
        messages = await engine.messages_of(2 * block + 1)
        salt = fresh_salt()
        answer = await engine.stream(messages, cache_salt=salt, max_tokens=length)
        history = [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "?"}]
        following = await engine.stream([*messages, *history], cache_salt=salt, max_tokens=1)
        ideal = Ideal(block)
        ideal.add(answer.chunks[0]["prompt_token_ids"], answer.token_ids)
        assert following.cached == ideal.of(following.chunks[0]["prompt_token_ids"])


async def test_another_salt_sees_nothing_and_no_salt_is_a_salt_of_its_own(engine):
    messages = [{"role": "user", "content": fresh_salt() + " word" * 100}]
    salt = fresh_salt()
    cached = [
        (await engine.stream(messages, **({} if each is None else {"cache_salt": each}))).cached > 0
        for each in (salt, salt, fresh_salt(), None, None, salt)
    ]
    assert cached == [False, True, False, False, True, True]


@pytest.mark.engines("noprefix32")
async def test_with_prefix_caching_off_usage_says_zero_and_the_config_says_why(engine):
    salt = fresh_salt()
    for _ in range(2):
        answer = await engine.stream(opening(100), cache_salt=salt)
        assert answer.cached == 0
    assert (await engine.cache_config())["enable_prefix_caching"] == "False"


async def test_the_config_says_that_prefix_caching_is_on(engine):
    assert (await engine.cache_config())["enable_prefix_caching"] == "True"


@pytest.mark.engines("details32", "noprefix32")
async def test_the_counters_move_by_what_the_answers_said(engine):
    names = (
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:prompt_tokens_cached_total",
        "vllm:generation_tokens_total",
    )
    before = [await engine.metric(name) for name in names]
    turns = await play(engine, 4, 120, salt=fresh_salt())
    prompt = sum(turn.usage["prompt_tokens"] for turn in turns)
    cached = sum(turn.cached for turn in turns)
    generated = sum(turn.usage["completion_tokens"] for turn in turns)
    on = (await engine.cache_config())["enable_prefix_caching"] == "True"
    assert (cached > 0) == on
    expected = [prompt if on else 0, cached, prompt, cached, generated]

    async def moved():
        after = [await engine.metric(name) for name in names]
        return [new - old for new, old in zip(after, before, strict=True)] == expected

    await until(moved)
