"""The scenario is always the same, long enough for the blocks and short enough for the context."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.session import Notice
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.scenario.model import estimate_tokens, fits


def test_the_scenario_has_eight_turns_and_each_ends_with_a_question_of_the_user():
    scenario = CODING_AGENT.build(0)
    assert len(scenario.steps) == 8
    assert scenario.steps[0][0]["role"] == "system"
    assert {step[-1]["role"] for step in scenario.steps} == {"user"}
    assert all(tool["function"]["parameters"]["required"] for tool in scenario.tools)


@given(padding=st.integers(0, 30_000), more=st.integers(0, 3_000))
def test_padding_makes_the_opening_longer_and_changes_nothing_before_it_ends(padding, more):
    shorter, longer = CODING_AGENT.build(padding), CODING_AGENT.build(padding + more)
    short_text = shorter.first_messages()[0]["content"]
    assert longer.first_messages()[0]["content"].startswith(short_text)
    assert len(short_text) >= padding
    assert longer.steps[1:] == shorter.steps[1:]


def test_the_same_length_gives_the_same_text():
    assert json.dumps(CODING_AGENT.build(9000).steps) == json.dumps(CODING_AGENT.build(9000).steps)


def test_a_conversation_fits_up_to_the_last_token_of_the_context():
    assert fits(scripted_tokens=1000, answers=2, max_tokens=32, max_model_len=1080)
    assert not fits(scripted_tokens=1001, answers=2, max_tokens=32, max_model_len=1080)
    assert fits(scripted_tokens=10**9, answers=2, max_tokens=32, max_model_len=None)


def test_an_estimate_without_a_tokenizer_grows_with_the_text():
    short = CODING_AGENT.build(0)
    long = CODING_AGENT.build(20_000)
    guess = estimate_tokens(short.first_messages(), short.tools)
    assert 300 < guess < estimate_tokens(long.first_messages(), long.tools)


@pytest.mark.parametrize("block_size", [16, 784, 2048])
async def test_the_first_prompt_spans_eight_blocks_of_any_size(bench, block_size):
    async with bench(block_size=block_size, max_model_len=65536, num_blocks=9000) as at:
        result = await at.play()
    assert result.turns[0].prompt_tokens > 8 * block_size
    assert result.turns[-1].efficiency_ratio == 1.0


async def test_without_tokenize_the_length_is_estimated_and_the_session_is_played(bench):
    async with bench(block_size=128, max_model_len=32768) as at:

        async def not_served(*_arguments):
            return None

        at.client.count_tokens = not_served
        result = await at.play()
    assert result.failure is None
    assert len(result.turns) == 8


@pytest.mark.parametrize(("block_size", "context"), [(1024, 16384), (4096, 49152)])
async def test_hybrid_blocks_of_thousands_of_tokens_get_eight_of_them(bench, block_size, context):
    async with bench(block_size=block_size, max_model_len=context, num_blocks=64) as at:
        result = await at.play()
    assert 8 * block_size < result.turns[0].prompt_tokens < 8.5 * block_size, "enough, not more"
    assert result.turns[1].cached_tokens == 8 * block_size
    assert all(turn.efficiency_ratio == 1.0 for turn in result.turns[1:])
    assert result.notices == {Notice.SIMULATED}


@pytest.mark.parametrize(("block_size", "context", "units"), [(1024, 8192, 7), (4096, 16384, 3)])
async def test_a_context_too_short_for_eight_blocks_gets_as_many_as_fit_and_a_notice(
    bench, block_size, context, units
):
    async with bench(block_size=block_size, max_model_len=context, num_blocks=64) as at:
        result = await at.play()
    assert result.failure is None
    assert len(result.turns) == 8
    assert result.notices == {Notice.SIMULATED, Notice.SCENARIO_SHORTENED}
    assert [turn.cached_tokens for turn in result.turns[-3:]] == [units * block_size] * 3
    assert result.turns[-1].prompt_tokens <= context


async def test_a_block_that_no_prompt_can_fill_gives_a_notice_and_no_loss(bench):
    async with bench(block_size=4096, max_model_len=3000, num_blocks=64) as at:
        result = await at.play()
    assert result.failure is None
    assert Notice.BLOCK_TOO_LARGE in result.notices
    assert {turn.cached_tokens for turn in result.turns} == {0}
    assert all(turn.loss is None for turn in result.turns)
