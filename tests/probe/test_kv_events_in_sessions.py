"""Sessions on an engine that publishes KV events: they prove what was evicted and what was reset."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from disturbances import before_turn, others_use
from kv_event_bench import free_ports, receiving_events_of

from exporter.model.session import LossCause
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.kv_events.settings import KvEventsConfig

PUBLISHED = KvEventsConfig("tcp://127.0.0.1:*")


def losses(result):
    return {turn.index: (turn.loss.cause, turn.loss.evidence) for turn in result.turns if turn.loss}


async def test_an_eviction_is_proven_by_the_blocks_that_the_engine_removed(bench):
    async with bench(num_blocks=512, kv_events=PUBLISHED) as at, receiving_events_of(at):

        async def crowd():
            await others_use(at, 12)

        before_turn(at, 4, crowd)
        result = await at.play()
    (turn, (cause, evidence)) = losses(result).popitem()
    assert (turn, cause, losses(result).keys()) == (4, LossCause.EVICTED, {4})
    held = (result.turns[2].prompt_tokens + result.turns[2].completion_tokens - 1) // 16
    assert f"the engine removed {held} of this session's {held} blocks" in evidence
    assert "(BlockRemoved)" in evidence


async def test_each_removed_block_of_an_evicted_tail_is_counted(bench):
    seen = []
    for sessions in range(15, 19):
        async with (
            bench(num_blocks=512, kv_events=PUBLISHED) as at,
            receiving_events_of(at),
        ):

            async def crowd(count=sessions):
                await others_use(at, count, characters=1350)

            before_turn(at, 4, crowd)
            result = await at.play()
            turn = result.turns[3]
            if turn.loss is None:
                continue
            held = (result.turns[2].prompt_tokens + result.turns[2].completion_tokens - 1) // 16
            removed = held - turn.cached_tokens // 16
            assert turn.loss.cause is LossCause.EVICTED
            assert f"removed {removed} of this session's {held} blocks" in turn.loss.evidence
            seen.append(turn.cached_tokens)
    assert len(set(seen)) > 1
    assert any(seen), "a part of a session stayed"


async def test_a_reset_is_proven_while_the_cache_is_full(bench):
    """By bounds alone this would be an eviction: others used more than the cache has room for."""
    async with bench(num_blocks=512, kv_events=PUBLISHED) as at, receiving_events_of(at):

        async def reset_and_crowd():
            assert at.simulator.engine.reset_prefix_cache()
            await others_use(at, 12)

        before_turn(at, 4, reset_and_crowd)
        result = await at.play()
    ((cause, evidence),) = losses(result).values()
    assert cause is LossCause.RESET
    assert "emptied its whole cache" in evidence
    assert "(AllBlocksCleared)" in evidence
    assert result.extra_tokens == 0, "no prompt was sent again to find the cause"


async def test_a_loss_without_a_removed_block_is_no_eviction_though_others_used_much(bench):
    """A cache that has stopped hitting, under traffic that might have evicted the session."""
    async with bench(num_blocks=2048, kv_events=PUBLISHED) as at, receiving_events_of(at):
        await at.play()

        async def wedge_in_a_crowd():
            at.simulator.inject(faults.Wedge())
            await others_use(at, 2)

        before_turn(at, 4, wedge_in_a_crowd)
        result = await at.play()
    assert {cause for cause, _ in losses(result).values()} == {LossCause.WEDGED}


async def test_events_of_others_are_no_events_of_the_session(bench):
    async with bench(num_blocks=4096, kv_events=PUBLISHED) as at, receiving_events_of(at) as feed:
        await asyncio.gather(at.play(), others_use(at, 5))
        blocks = feed.blocks
        tokens = at.requests.share.prompt_tokens
        assert blocks.found
        assert not blocks.incomplete
        assert len(blocks._first) < tokens // 16
        assert feed.view.events["stored"] > len(blocks._first) / 50


@pytest.mark.parametrize("turn", [3])
async def test_a_gap_in_the_events_leaves_only_what_the_counters_show(bench, turn):
    async with bench(num_blocks=512, kv_events=PUBLISHED) as at, receiving_events_of(at) as feed:

        async def crowd_unseen():
            at.simulator.engine._publishers[0]._sequence += 1
            await others_use(at, 12)

        before_turn(at, turn, crowd_unseen)
        result = await at.play()
        assert feed.view.missed == 1
    ((cause, evidence),) = losses(result).values()
    assert cause is LossCause.EVICTED
    assert "KV events" not in evidence
    assert "other requests used" in evidence


async def test_the_next_session_after_a_gap_has_evidence_again(bench):
    async with bench(num_blocks=512, kv_events=PUBLISHED) as at, receiving_events_of(at) as feed:
        await at.play()
        at.simulator.engine._publishers[0]._sequence += 5
        await at.play()
        assert feed.blocks.incomplete

        async def crowd():
            await others_use(at, 12)

        before_turn(at, 4, crowd)
        result = await at.play()
        assert feed.view.missed == 5
    assert "(BlockRemoved)" in losses(result)[4][1]


async def test_a_turn_on_another_rank_is_no_eviction_though_others_used_much(bench):
    """What others send again and again takes no room, but the counters cannot show that."""
    published = KvEventsConfig(f"tcp://127.0.0.1:{free_ports(2)}")
    causes = {}
    for events in (None, published):
        async with (
            bench(num_blocks=1024, engine_ranks=2, kv_events=events) as at,
            receiving_events_of(at) if events else contextlib.nullcontext(),
        ):
            await at.play()
            at.simulator.inject(behaviours.Spread("in_turn"))

            async def crowd(at=at):
                for _ in range(40):
                    await others_use(at, 1)

            before_turn(at, 4, crowd)
            result = await at.play()
            causes[events] = losses(result)[4][0]
    assert causes == {None: LossCause.EVICTED, published: LossCause.OTHER_RANK}
