"""Token ids of old engines, of engines that answer badly once, and of parsers that swallow some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.model.failure import FailureReason
from exporter.model.session import Notice
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.faults import behaviours, faults


def ideals(result):
    return [turn.ideal_cached_tokens for turn in result.turns]


@pytest.mark.parametrize("name", ["vllm-0.9.2", "vllm-0.8.5-v0"])
async def test_every_ideal_of_an_old_engine_is_known_in_its_first_session(bench, name):
    """By its version, ids must be requested, so the first answer has them."""
    async with bench(like=name) as at:
        result = await at.play()
    assert result.failure is None
    assert None not in ideals(result)
    assert Notice.TOKEN_IDS_RECOVERED in result.notices
    assert Notice.TOKEN_IDS_MISSING not in result.notices
    assert result.prefix.stable
    assert result.prefix.turns_compared == len(result.turns) - 1


async def test_the_first_request_to_a_young_engine_asks_for_no_logprobs(bench):
    async with bench() as at:
        chat, asked = at.client.chat, []

        async def watched(request, *arguments):
            asked.append(request.logprobs)
            return await chat(request, *arguments)

        at.client.chat = watched
        await at.play()
    assert asked == [False] * 8


async def test_tools_that_the_chat_leaves_out_are_not_counted_from_then_on(bench):
    async with bench(like="vllm-0.9.2") as at:
        assert at.client.capabilities.counts_tools
        first = await at.play()
        assert not at.client.capabilities.counts_tools
        messages = CODING_AGENT.build(0).first_messages()
        tools = CODING_AGENT.build(0).tools
        with_tools = await at.client.tokenize("simulated", messages, tools)
        counted = await at.client.count_tokens("simulated", messages, tools)
        second = await at.play()
    assert counted < len(with_tools)
    assert None not in ideals(first)
    assert None not in ideals(second)


async def test_a_failed_answer_says_nothing_of_the_engines_token_ids(bench):
    async with bench() as at:
        at.simulator.inject(faults.CutStream(after_chunks=0))
        assert (await at.play()).failure.reason is FailureReason.STREAM_CUT
        at.simulator.clear()
        chat, asked = at.client.chat, []

        async def watched(request, *arguments):
            asked.append(request.logprobs)
            return await chat(request, *arguments)

        at.client.chat = watched
        assert (await at.play()).failure is None
    assert asked == [False] * 8


async def test_an_incomplete_list_of_ids_is_unknown(bench):
    async with bench() as at:
        whole = await at.play()
    async with bench(like="swallows-ids") as at:
        swallowed = await at.play()
    assert swallowed.failure is None
    assert Notice.TOKEN_IDS_MISSING in swallowed.notices
    assert None in ideals(swallowed)[1:]
    assert all(turn.efficiency_ratio in (None, 1.0) for turn in swallowed.turns)
    assert whole.prefix.turns_compared == len(whole.turns) - 1
    assert swallowed.prefix is None, (
        "each prompt goes on past the one before, where ids are missing"
    )


async def test_incomplete_ids_of_a_prompt_come_from_tokenize(bench):
    async with bench() as at:
        chat = at.client.chat

        async def cut(request, *arguments):
            got = await chat(request, *arguments)
            return replace(got, prompt_token_ids=got.prompt_token_ids[:-1])

        at.client.chat = cut
        result = await at.play()
    assert None not in ideals(result)
    assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])
    assert Notice.TOKEN_IDS_RECOVERED in result.notices


@pytest.mark.parametrize("kind", ["no_prompt_tokens", "empty", "more_cached_than_sent"])
async def test_a_usage_that_is_odd_once_costs_that_turns_tokens_and_no_session(bench, kind):
    async with bench() as at:
        at.simulator.inject(behaviours.OddUsage(kind, 1))
        result = await at.play()
        sound = await at.play()
    assert result.failure is None
    assert len(result.turns) == 8
    assert Notice.USAGE_UNUSABLE in result.notices
    assert Notice.USAGE_MISSING not in result.notices
    first, *later = result.turns
    assert (first.prompt_tokens, first.cached_tokens, first.hit_ratio) == (None, None, None)
    assert first.ttft_seconds > 0
    assert all(turn.cached_tokens for turn in later)
    assert sound.notices == {Notice.SIMULATED}


@pytest.mark.parametrize("name", ["no-prompt-tokens", "empty-usage"])
async def test_where_every_usage_is_odd_the_times_are_still_known(bench, name):
    async with bench(like=name) as at:
        result = await at.play()
    assert result.failure is None
    assert all(turn.prompt_tokens is None for turn in result.turns)
    assert all(turn.ttft_seconds > 0 for turn in result.turns)
    assert Notice.USAGE_UNUSABLE in result.notices


async def test_a_length_that_was_guessed_once_is_counted_as_soon_as_it_can_be(bench):
    async with bench(block_size=784, max_model_len=32768) as at:
        counted = (await at.play()).turns[0].prompt_tokens
    async with bench(block_size=784, max_model_len=32768) as at:
        at.simulator.inject(faults.NoTokenize())
        guessed = (await at.play()).turns[0].prompt_tokens
        at.simulator.clear()
        assert (await at.play()).turns[0].prompt_tokens == counted != guessed


async def test_one_fit_asks_a_silent_tokenizer_once(bench):
    async with bench() as at:
        asked = []

        async def silent(*arguments):
            asked.append(arguments)

        at.client.count_tokens = silent
        await at.play()
        assert len(asked) == 1
        await at.play()
    assert len(asked) == 2
