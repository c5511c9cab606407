"""Sessions on a simulated engine that loses tokens: the cause is found with few requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from disturbances import before_turn, others_use

from exporter.engine.wire.request import ChatRequest
from exporter.model.session import LossCause, Notice
from exporter.simulator.faults import faults


def count_chats(at):
    chat, sent = at.client.chat, []

    async def counted(request, *arguments):
        sent.append(request)
        return await chat(request, *arguments)

    at.client.chat = counted
    return sent


def causes(result):
    return {turn.index: turn.loss.cause for turn in result.turns if turn.loss}


async def test_a_session_without_a_loss_sends_nothing_but_its_turns(bench):
    async with bench() as at:
        sent = count_chats(at)
        pages = at.client.metrics
        read = []

        async def metrics(url=None):
            read.append(1)
            return await pages(url)

        at.client.metrics = metrics
        first = await at.play()
        # The readings around the first prompt of a process show whether a store is behind it.
        assert (len(sent), len(read), first.extra_tokens) == (8, 1 + 2, 0)
        result = await at.play()
    assert causes(first) == causes(result) == {}
    assert (len(sent), len(read), result.extra_tokens) == (8 + 8, 3 + 1, 0)


async def test_a_wedged_cache_is_found_in_one_session_by_three_requests(bench):
    async with bench() as at:
        await at.play()
        at.simulator.inject(faults.Wedge())
        sent = count_chats(at)
        result = await at.play()
    assert causes(result) == dict.fromkeys(range(2, 9), LossCause.WEDGED)
    assert len(sent) == 8 + 3
    assert result.extra_tokens > 0
    assert Notice.CACHE_WEDGED in result.notices
    assert "sent again at once, hit nothing either" in result.turns[1].loss.evidence
    assert "this engine process had hit before" in result.turns[1].loss.evidence


async def test_a_process_that_never_hit_is_not_wedged(bench):
    async with bench() as at:
        at.simulator.inject(faults.Wedge())
        results = [await at.play(), await at.play()]
    for result in results:
        assert causes(result) == dict.fromkeys(range(2, 9), LossCause.NEVER_HIT)
        assert Notice.CACHE_WEDGED not in result.notices
        assert "nothing shows that the cache has stopped" in result.turns[1].loss.evidence


async def test_what_another_process_hit_before_says_nothing_of_this_one(bench):
    async with bench() as at:
        await at.play()
        at.simulator.inject(faults.Wedge())
        await at.simulator.engine.restart()
        result = await at.play()
        at.simulator.clear(faults.Wedge)
        await at.play()
        before_turn(at, 3, at.simulator.engine.restart)
        in_the_middle = await at.play(lambda _facts: at.simulator.inject(faults.Wedge()))
    assert set(causes(result).values()) == {LossCause.NEVER_HIT}
    assert set(causes(in_the_middle).values()) <= {
        *(LossCause.WEDGED, LossCause.RESTART, LossCause.NEVER_HIT)
    }
    assert causes(in_the_middle)[3] is LossCause.RESTART
    assert causes(in_the_middle)[4] is LossCause.NEVER_HIT


async def test_a_cache_that_wedges_in_the_middle_is_found_and_one_that_recovers_is_not_accused(
    bench,
):
    async with bench() as at:

        async def wedge():
            at.simulator.inject(faults.Wedge())

        before_turn(at, 4, wedge)
        result = await at.play(
            lambda facts: at.simulator.clear(faults.Wedge) if facts.index == 5 else None
        )
    assert causes(result) == {4: LossCause.WEDGED, 5: LossCause.WEDGED}


async def test_the_proof_of_a_wedge_does_not_outlive_a_hit(bench):
    async with bench() as at:
        await at.play()
        at.simulator.inject(faults.Wedge())

        def on_turn(facts):
            if facts.index == 3:
                at.simulator.clear(faults.Wedge)
            elif facts.index == 6:
                at.simulator.engine.reset_prefix_cache()

        result = await at.play(on_turn)
    assert causes(result) == {2: LossCause.WEDGED, 3: LossCause.WEDGED, 7: LossCause.RESET}


async def test_a_full_cache_is_evicted_and_not_wedged(bench):
    async with bench(num_blocks=512) as at:

        async def crowd():
            await others_use(at, 12)

        before_turn(at, 4, crowd)
        result = await at.play()
    assert causes(result) == {4: LossCause.EVICTED}
    assert result.turns[3].cached_tokens == 0
    assert "other requests used" in result.turns[3].loss.evidence
    assert Notice.CACHE_WEDGED not in result.notices
    assert result.extra_tokens == 0, "the counters showed the cause"


async def test_an_evicted_tail_is_told_by_the_head_that_still_hits(bench):
    """As many others as leave the session's head: the least recently used blocks go tail first."""
    seen = []
    for sessions in range(15, 19):
        async with bench(num_blocks=512) as at:

            async def crowd(count=sessions):
                await others_use(at, count, characters=1350)

            before_turn(at, 4, crowd)
            result = await at.play()
            turn = result.turns[3]
            seen.append((turn.cached_tokens, turn.ideal_cached_tokens))
            assert set(causes(result).values()) <= {LossCause.EVICTED}
    assert any(0 < cached < ideal for cached, ideal in seen), seen
    assert any(cached == ideal for cached, ideal in seen), seen


async def test_a_cache_too_small_for_the_session_itself_is_not_called_wedged(bench):
    async with bench(num_blocks=4096) as at:
        at.simulator.inject(faults.SmallCache(blocks=160))
        for _ in range(3):
            result = await at.play()
            assert LossCause.WEDGED not in causes(result).values()
            assert Notice.CACHE_WEDGED not in result.notices


async def test_a_prompt_too_short_to_tell_is_not_called_wedged(bench):
    async with bench(block_size=528, max_model_len=1500) as at:
        at.simulator.inject(faults.Wedge())
        result = await at.play()
    lost = [turn for turn in result.turns if turn.loss]
    assert lost
    assert all(turn.prompt_tokens <= 3 * 528 for turn in lost)
    assert {turn.loss.cause for turn in lost} == {LossCause.UNEXPLAINED}


def empty_before(at, numbers):
    """Empty the cache before the requests with these numbers."""
    chat, sent = at.client.chat, []

    async def disturbed(request, *arguments):
        sent.append(request)
        if len(sent) in numbers:
            assert at.simulator.engine.reset_prefix_cache()
        return await chat(request, *arguments)

    at.client.chat = disturbed
    return sent


@pytest.mark.parametrize("numbers", [{4, 5}, {4, 5, 6}, {2, 3}, {2, 3, 4}])
async def test_a_cache_that_is_emptied_again_and_again_has_not_stopped(bench, numbers):
    """It is empty before a turn, before its prompt is sent again, and once more: so nothing but a
    request beside another one can tell. Also where this process has not hit before.
    """
    async with bench(time_scale=1.0) as at:
        sent = empty_before(at, numbers)
        result = await at.play()
    assert [request.max_tokens for request in sent[min(numbers) : min(numbers) + 3]] == [1, 16, 1]
    late = numbers == {2, 3}  # like an engine that hits only at the third request
    assert causes(result) == {min(numbers): LossCause.NEVER_HIT if late else LossCause.RESET}
    assert Notice.CACHE_WEDGED not in result.notices


async def test_a_process_that_never_hit_gets_overlapping_repeats_once(bench):
    async with bench() as at:
        at.simulator.inject(faults.Wedge())
        sent = count_chats(at)
        first, second = await at.play(), await at.play()
    assert len(sent) == 8 + 3 + 8 + 1
    assert set(causes(first).values()) == set(causes(second).values()) == {LossCause.NEVER_HIT}


async def test_a_cache_that_was_emptied_is_called_reset_and_the_session_goes_on(bench):
    async with bench() as at:

        async def reset():
            assert at.simulator.engine.reset_prefix_cache()

        before_turn(at, 3, reset)
        result = await at.play()
    assert causes(result) == {3: LossCause.RESET}
    assert result.turns[3].efficiency_ratio == 1.0


async def test_a_cache_that_is_emptied_before_each_turn_of_a_first_session_is_called_reset(bench):
    """A repeat hits tokens that were sent only once before, so this engine hits at once."""
    async with bench() as at:
        result = await at.play(lambda _facts: at.simulator.engine.reset_prefix_cache())
    assert causes(result) == dict.fromkeys(range(2, 9), LossCause.RESET)


async def test_a_restart_is_reported_once_and_does_not_explain_later_losses(bench):
    async with bench() as at:
        before_turn(at, 3, at.simulator.engine.restart)
        result = await at.play(
            lambda facts: at.simulator.engine.reset_prefix_cache() if facts.index == 5 else None
        )
    assert causes(result) == {3: LossCause.RESTART, 6: LossCause.RESET}


async def test_hits_that_only_the_engine_counted_are_unreported(bench):
    async with bench() as at:
        chat = at.client.chat

        async def through_a_proxy(request, *arguments):
            answer = await chat(request, *arguments)
            return replace(answer, usage=replace(answer.usage, cached_tokens=0))

        at.client.chat = through_a_proxy
        result = await at.play()
    assert causes(result) == dict.fromkeys(range(2, 9), LossCause.UNREPORTED)
    assert result.extra_tokens == 0


async def test_a_turn_that_ran_on_another_rank_is_reported_as_that(bench):
    async with bench(engine_ranks=2) as at, asyncio.TaskGroup() as others:
        first_rank = at.simulator.engine.ranks[0]

        async def occupy_the_first_rank():
            first_rank.hang_after(0)
            request = ChatRequest("simulated", [{"role": "user", "content": "x"}], 1, "other")
            others.create_task(at.client.chat(request, at.plan.deadlines))
            async with asyncio.timeout(30):
                while first_rank.load == 0:  # noqa: ASYNC110 - the simulator has no event for it
                    await asyncio.sleep(0)

        before_turn(at, 3, occupy_the_first_rank)
        result = await at.play()
        first_rank.hang_after(None)
    assert causes(result)[3] is LossCause.OTHER_RANK


@pytest.mark.parametrize("fault", [faults.NoPrefixCaching(), faults.NoUsageDetails()])
async def test_what_is_off_or_silent_costs_no_extra_request(bench, fault):
    async with bench() as at:
        at.simulator.inject(fault)
        sent = count_chats(at)
        result = await at.play()
    assert len(sent) == 8
    assert set(causes(result).values()) <= {LossCause.DISABLED}
