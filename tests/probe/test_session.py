"""Whole sessions over HTTP: what is found on a sound engine, and with each fault."""

import gc
import inspect

import pytest

from exporter.engine.wire.request import Deadlines
from exporter.model.chat import Chat
from exporter.model.failure import FailureReason
from exporter.model.session import BreakReason, LossCause, Notice, PrefixStability
from exporter.simulator.faults import faults
from exporter.wording.session_json import session_json


@pytest.mark.parametrize("block_size", [16, 32, 128, 528])
async def test_every_turn_hits_its_ideal_on_an_undisturbed_engine(bench, block_size):
    async with bench(block_size=block_size, max_model_len=32768) as at:
        result = await at.play()
    assert result.failure is None
    assert [turn.index for turn in result.turns] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert result.turns[0].cached_tokens == 0
    assert result.turns[0].prompt_tokens > 8 * block_size
    for turn in result.turns[1:]:
        assert turn.cached_tokens == turn.ideal_cached_tokens > 0
        assert turn.efficiency_ratio == 1.0
        assert turn.cached_tokens % block_size == 0
        assert turn.loss is None
        assert 0 < turn.ttft_seconds <= turn.latency_seconds
    assert result.notices == {Notice.SIMULATED}
    assert result.simulated
    assert (result.model, result.engine_version) == ("simulated", "0.32.0")


async def test_each_session_begins_cold(bench):
    async with bench() as at:
        first, second = await at.play(), await at.play()
    assert first.turns[0].cached_tokens == second.turns[0].cached_tokens == 0
    assert first.turns[1].cached_tokens == second.turns[1].cached_tokens > 0


async def test_a_server_without_usage_details_has_no_hit_ratio_and_says_why(bench):
    async with bench(enable_prompt_tokens_details=False) as at:
        result = await at.play()
    assert result.failure is None
    assert Notice.USAGE_DETAILS_MISSING in result.notices
    for turn in result.turns:
        assert (turn.cached_tokens, turn.hit_ratio, turn.efficiency_ratio) == (None, None, None)
        assert turn.loss is None
    assert result.turns[1].ideal_cached_tokens > 0


async def test_with_prefix_caching_off_the_ratio_is_zero_and_the_cause_is_disabled(bench):
    async with bench(enable_prefix_caching=False) as at:
        result = await at.play()
    assert Notice.PREFIX_CACHING_DISABLED in result.notices
    for turn in result.turns[1:]:
        assert (turn.hit_ratio, turn.efficiency_ratio) == (0.0, 0.0)
        assert turn.loss.cause is LossCause.DISABLED
        assert turn.loss.tokens == turn.ideal_cached_tokens


async def test_an_engine_restarted_between_two_turns_lost_tokens_to_the_restart(bench):
    async with bench() as at:
        chat, calls = at.client.chat, iter(range(1, 100))

        async def chat_after_a_restart(*arguments):
            if next(calls) == 4:
                await at.simulator.engine.restart()
            return await chat(*arguments)

        at.client.chat = chat_after_a_restart
        result = await at.play()
    lost = [turn for turn in result.turns if turn.loss is not None]
    assert [turn.index for turn in lost] == [4]
    assert (lost[0].cached_tokens, lost[0].loss.cause) == (0, LossCause.RESTART)


async def test_a_restart_of_an_engine_without_a_start_time_is_seen_by_its_counters(bench):
    async with bench(like="api2") as at:
        await at.play()
        chat, calls = at.client.chat, iter(range(1, 100))

        async def chat_after_a_restart(*arguments):
            if next(calls) == 4:
                await at.simulator.engine.restart()
            return await chat(*arguments)

        at.client.chat = chat_after_a_restart
        result = await at.play()
    (lost,) = [turn for turn in result.turns if turn.loss is not None]
    assert (lost.index, lost.loss.cause) == (4, LossCause.RESTART)
    assert lost.loss.tokens == lost.attainable_cached_tokens > 0
    assert "counters fell" in lost.loss.evidence
    assert "start_time_seconds changed" not in lost.loss.evidence


@pytest.mark.parametrize(
    ("fault", "notice"),
    [
        (faults.NoLogStats(), Notice.MATCH_UNIT_UNKNOWN),
        (faults.NoUsage(), Notice.USAGE_MISSING),
    ],
)
async def test_what_the_engine_does_not_report_leaves_the_ideal_unknown_with_the_reason(
    bench, fault, notice
):
    async with bench() as at:
        at.simulator.inject(fault)
        result = await at.play()
    assert result.failure is None
    assert notice in result.notices
    assert result.turns[0].efficiency_ratio is None
    assert all(turn.efficiency_ratio is None for turn in result.turns)


def of_fault(fault) -> Deadlines:
    """Deadlines of which only the one that the fault misses is short."""
    if fault == faults.Hang():
        return Deadlines(first_token=0.3, between_tokens=60, whole=120)
    if isinstance(fault, faults.Hang):
        return Deadlines(first_token=60, between_tokens=0.3, whole=120)
    return Deadlines(first_token=60, between_tokens=60, whole=120)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.Errors(status=500), FailureReason.SERVER_ERROR),
        (faults.Errors(status=503), FailureReason.OVERLOADED),
        (faults.CutStream(), FailureReason.STREAM_CUT),
        (faults.StreamError(), FailureReason.STREAM_ERROR),
        (faults.Abort(), FailureReason.ABORTED),
        (faults.Hang(), FailureReason.FIRST_TOKEN_TIMEOUT),
        (faults.Hang(after_tokens=2), FailureReason.STALLED),
    ],
)
async def test_a_session_that_fails_has_a_reason_and_keeps_the_turns_before(bench, fault, reason):
    async with bench() as at:
        chat = at.client.chat

        async def with_short_deadline(request, _deadlines, *arguments):
            return await chat(request, of_fault(fault), *arguments)

        def break_it(facts):
            if facts.index == 2:
                at.simulator.inject(fault)
                # Only now: a slow machine must not miss a deadline before the fault.
                at.client.chat = with_short_deadline

        result = await at.play(break_it)
    assert result.failure.reason is reason
    assert result.failed_turn == 3
    assert [turn.index for turn in result.turns] == [1, 2]


async def test_an_unreachable_engine_fails_the_session_and_the_next_one_succeeds(bench):
    async with bench() as at:
        at.simulator.inject(faults.Crash())
        await at.simulator._settle()
        down = await at.play()
        await at.simulator.recover()
        up = await at.play()
    assert down.failure.reason is FailureReason.CONNECTION_REFUSED
    assert (down.turns, down.failed_turn, down.model) == ((), None, None)
    assert up.failure is None


async def test_a_short_context_gets_fewer_turns_and_says_so(bench):
    async with bench(max_model_len=800) as at:
        result = await at.play()
    assert result.failure is None
    assert 2 <= len(result.turns) < 8
    assert Notice.SCENARIO_SHORTENED in result.notices
    assert result.turns[-1].prompt_tokens <= 800


async def test_a_context_too_short_for_two_turns_is_a_failure_that_says_what_to_do(bench):
    async with bench(max_model_len=200) as at:
        result = await at.play()
    assert result.failure.reason is FailureReason.PROMPT_TOO_LONG
    assert "raise --max-model-len" in result.failure.detail


async def test_the_token_ids_do_not_outlive_the_session(bench):
    async with bench() as at:
        result = await at.play()
    assert not any(hasattr(turn, "prompt_token_ids") for turn in result.turns)
    assert "section" not in str(session_json(result)).lower(), "no prompt text in the record"


async def test_a_template_that_appends_is_stable(bench):
    async with bench() as at:
        result = await at.play()
    assert result.prefix == PrefixStability(stable=True, turns_compared=7)
    assert Notice.PREFIX_UNSTABLE not in result.notices


async def test_a_template_that_moves_the_system_prompt_lowers_the_ideal_and_is_reported(bench):
    async with bench() as at:
        at.simulator.inject(faults.MovingSystemPrompt())
        result = await at.play()
    assert result.failure is None
    found = result.prefix.first_break
    assert not result.prefix.stable
    assert found.reason is BreakReason.SYSTEM_PROMPT_MOVED
    assert (found.turn, found.message, found.role) == (2, 1, "system")
    assert found.earlier.startswith("You are a careful software engineer")
    assert Notice.PREFIX_UNSTABLE in result.notices
    for turn in result.turns[1:]:
        assert turn.ideal_hit_ratio < 0.6
        assert turn.efficiency_ratio in (None, 1.0)
        assert turn.loss is None


async def test_without_token_ids_it_is_unknown_whether_the_prompt_is_stable(bench):
    async with bench() as at:
        at.simulator.inject(faults.NoTokenIds())
        at.simulator.inject(faults.NoTokenize())
        result = await at.play()
    assert result.prefix is None


async def test_the_text_around_a_break_is_not_in_the_json_nor_in_a_printed_record(bench):
    async with bench() as at:
        at.simulator.inject(faults.MovingSystemPrompt())
        result = await at.play()
    assert session_json(result)["prefix"]["first_break"]["reason"] == "system_prompt_moved"
    assert "careful" not in str(session_json(result))
    assert "careful" not in repr(result)


def chats_alive():
    return [each for each in gc.get_objects() if type(each) is Chat]


async def test_token_ids_are_not_held_until_the_next_session(bench):
    others = chats_alive()  # constants of test modules
    async with bench() as at:
        result = await at.play()
        assert result.failure is None
        assert len(chats_alive()) == len(others)
        assert at.runner.so_far().turns == result.turns


@pytest.mark.parametrize(
    ("act", "cause", "reason"),
    [
        ("reset_prefix_cache", LossCause.UNEXPLAINED, "each of the 2 ranks had computed a part"),
        ("restart", LossCause.RESTART, "counters fell"),
    ],
)
async def test_a_turn_that_hits_on_no_rank_did_not_just_run_on_another(bench, act, cause, reason):
    async with bench(like="dp2") as at:
        await at.play()
        chat, calls = at.client.chat, iter(range(1, 100))

        async def chat_after_the_act(*arguments):
            if next(calls) == 5:
                done = getattr(at.simulator.engine, act)()
                await done if inspect.isawaitable(done) else None
            return await chat(*arguments)

        at.client.chat = chat_after_the_act
        result = await at.play()
    losses = {turn.index: turn.loss for turn in result.turns if turn.loss}
    lost = losses.pop(5)
    assert (lost.cause, lost.tokens) == (cause, result.turns[4].attainable_cached_tokens)
    assert reason in lost.evidence
    assert {loss.cause for loss in losses.values()} == {LossCause.OTHER_RANK}
