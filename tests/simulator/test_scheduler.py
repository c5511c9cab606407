"""One engine rank with a fake clock."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from fake_clock import FakeClock
from prometheus_client.parser import text_string_to_metric_families

from exporter.simulator.engine import Engine
from exporter.simulator.engine_kinds.settings import SimulatorSettings
from exporter.simulator.faults.faults import parse
from exporter.simulator.text.answers import Answer

EXACT = {
    "block_size": 4,
    "num_blocks": 65,
    "max_model_len": 256,
    "prefill_floor_seconds": 1.0,
    "prefill_seconds_per_token": 0.5,
    "decode_seconds_per_token": 0.25,
    "jitter_ratio": 0.0,
}


@asynccontextmanager
async def engine(**changed):
    clock = FakeClock()
    running = Engine(SimulatorSettings(**(EXACT | changed)), clock)
    running.start()
    try:
        yield running, clock
    finally:
        await running.stop()


def send(running, length, *, answer=3, first=0, salt=None):
    """A request of `length` tokens with an answer of `answer` tokens."""
    planned = Answer(
        token_ids=tuple(range(9000 + first, 9000 + first + answer)),
        deltas=tuple({"content": "x"} for _ in range(answer)),
        content="x" * answer,
        tool_calls=(),
        finish_reason="length",
        stop_reason=None,
    )
    prompt = range(first, first + length)
    return running.submit(prompt, planned, salt=salt, max_tokens=answer)[1]


def series(running):
    """Every sample of /metrics by name; with more than one, their sum."""
    values = {}
    for family in text_string_to_metric_families(running.metrics_page().decode()):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0) + sample.value
    return values


async def advance_in_steps(clock, seconds, *, step=0.25):
    for _ in range(round(seconds / step)):
        await clock.advance(step)


async def test_the_first_token_takes_the_floor_and_each_uncached_token():
    async with engine() as (running, clock):
        job = send(running, 10)
        await clock.until_asleep()
        await clock.advance(1.0 + 10 * 0.5 - 0.01)
        assert job.emitted == 0
        await clock.advance(0.01)
        assert job.emitted == 1
        await clock.advance(0.25)
        assert job.emitted == 2


async def test_cached_tokens_cost_no_time():
    async with engine() as (running, clock):
        send(running, 10)
        await clock.until_asleep()
        await advance_in_steps(clock, 7)
        again = send(running, 10)
        await clock.until_asleep()
        await clock.advance(1.0 + 2 * 0.5)  # eight of ten are in two full blocks
        assert (again.emitted, again.cached, again.created) == (1, 8, 0)


async def test_slowness_multiplies_the_time_and_ends_when_cleared():
    async with engine() as (running, clock):
        running.inject(parse({"fault": "slow", "factor": 4}))
        job = send(running, 10)
        await clock.until_asleep()
        await clock.advance(6.0)
        assert job.emitted == 0
        running.clear()
        await clock.advance(18.0)
        assert job.emitted == 1
        await clock.advance(0.25)
        assert job.emitted == 2


async def test_no_more_than_max_num_seqs_run_and_the_rest_wait_their_turn():
    async with engine(max_num_seqs=2) as (running, clock):
        jobs = [send(running, 4, first=100 * n) for n in range(5)]
        await clock.until_asleep()
        page = series(running)
        assert page["vllm:num_requests_running"] == 2
        assert page["vllm:num_requests_waiting"] == 3
        assert page["vllm:kv_cache_usage_perc"] == pytest.approx(2 / 64)
        await advance_in_steps(clock, 30)
        assert [job.emitted for job in jobs] == [3] * 5
        assert jobs[0].last_token_at < jobs[2].last_token_at < jobs[4].last_token_at
        page = series(running)
        assert (page["vllm:num_requests_running"], page["vllm:num_requests_waiting"]) == (0, 0)
        assert page["vllm:kv_cache_usage_perc"] == 0


async def test_a_batch_decodes_in_the_time_of_one():
    async with engine() as (running, clock):
        jobs = [send(running, 4, first=100 * n) for n in range(8)]
        await clock.until_asleep()
        await clock.advance(1.0 + 32 * 0.5)
        await clock.advance(0.25)
        assert [job.emitted for job in jobs] == [2] * 8


async def test_a_long_prompt_is_computed_in_pieces_of_the_token_budget():
    async with engine(max_num_batched_tokens=8, prefill_floor_seconds=0) as (running, clock):
        job = send(running, 20)
        await clock.until_asleep()
        await clock.advance(8 * 0.5)
        assert (job.computed, job.emitted) == (8, 0)
        await clock.advance(12 * 0.5)
        assert (job.computed, job.emitted) == (20, 1)


async def test_two_prompts_of_the_same_step_share_their_blocks():
    async with engine() as (running, clock):
        jobs = [send(running, 20), send(running, 20)]
        await clock.until_asleep()
        await advance_in_steps(clock, 20)
        assert [job.cached for job in jobs] == [0, 16]


async def test_when_blocks_run_out_the_youngest_starts_over_and_all_finish():
    async with engine(num_blocks=9, max_model_len=32) as (running, clock):
        jobs = [send(running, 12, answer=16, first=100 * n) for n in range(2)]
        await clock.until_asleep()
        await advance_in_steps(clock, 60)
        assert [job.emitted for job in jobs] == [16, 16]
        assert jobs[1].preemptions > 0
        assert jobs[0].preemptions == 0
        page = series(running)
        assert page["vllm:num_preemptions_total"] == jobs[1].preemptions
        assert page["vllm:prefix_cache_queries_total"] == 24  # a second start is not counted
        assert page["vllm:kv_cache_usage_perc"] == 0


async def test_a_preempted_request_goes_on_before_those_that_still_wait():
    async with engine(num_blocks=9, max_model_len=32, max_num_seqs=2) as (running, clock):
        jobs = [send(running, 12, answer=16, first=100 * n) for n in range(3)]
        await clock.until_asleep()
        await advance_in_steps(clock, 90)
        assert [job.emitted for job in jobs] == [16] * 3
        assert jobs[1].preemptions > 0
        assert jobs[1].last_token_at < jobs[2].last_token_at
        assert jobs[2].first_token_at > jobs[0].last_token_at


async def test_counters_agree_with_the_usage_of_the_requests():
    async with engine() as (running, clock):
        jobs = []
        for _ in range(3):
            jobs.append(send(running, 21))
            await clock.until_asleep()
            await advance_in_steps(clock, 20)
        page = series(running)
        cached = sum(job.cached for job in jobs)
        assert cached == 2 * 20
        assert page["vllm:prefix_cache_queries_total"] == 63
        assert page["vllm:prefix_cache_hits_total"] == cached
        assert page["vllm:prompt_tokens_total"] == 63
        assert page["vllm:prompt_tokens_cached_total"] == cached
        assert page["vllm:prompt_tokens_by_source_total"] == 63
        assert page["vllm:generation_tokens_total"] == 9
        assert page["vllm:request_success_total"] == 3
        assert page["vllm:time_to_first_token_seconds_count"] == 3
        assert page["vllm:inter_token_latency_seconds_count"] == 6
        assert page["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(
            sum(job.last_token_at - job.arrived for job in jobs)
        )


async def test_a_dropped_request_frees_its_blocks():
    async with engine() as (running, clock):
        job = send(running, 20, answer=50)
        rank = running.ranks[0]
        await clock.until_asleep()
        assert rank.cache.usage > 0
        rank.abort(job)
        assert rank.cache.usage == 0
        await advance_in_steps(clock, 20)
        assert job.emitted == 0
        assert job.progress.empty()


async def test_the_least_loaded_rank_gets_the_next_request():
    async with engine(engine_ranks=2) as (running, clock):
        send(running, 8)
        send(running, 8)
        await clock.until_asleep(2)
        assert [rank.load for rank in running.ranks] == [1, 1]
        page = running.metrics_page().decode()
        for rank in ("0", "1"):
            assert (
                f'vllm:num_requests_running{{engine="{rank}",model_name="simulated"}} 1.0' in page
            )


async def test_a_wedged_cache_never_hits_though_its_blocks_are_there():
    async with engine() as (running, clock):
        running.inject(parse({"fault": "wedge"}))
        for _ in range(2):
            job = send(running, 20)
            await clock.until_asleep()
            await advance_in_steps(clock, 20)
            assert job.cached == 0
        assert len(running.ranks[0].cache._by_key) > 0
        running.clear()
        job = send(running, 20)
        await clock.until_asleep()
        assert job.cached == 16


async def test_ignored_salts_share_blocks_and_kept_ones_do_not():
    async with engine() as (running, clock):
        cached = []
        for ignored in (False, True):
            if ignored:
                running.inject(parse({"fault": "ignore_salts"}))
            for salt in ("a", "b"):
                job = send(running, 20, salt=f"{salt}{ignored}")
                await clock.until_asleep()
                await advance_in_steps(clock, 20)
                cached.append(job.cached)
        assert cached == [0, 0, 0, 16]


async def test_with_prefix_caching_off_nothing_hits_and_nothing_is_counted():
    async with engine() as (running, clock):
        send(running, 20)
        await clock.until_asleep()
        await advance_in_steps(clock, 20)
        running.inject(parse({"fault": "no_prefix_caching"}))
        job = send(running, 20)
        await clock.until_asleep()
        await advance_in_steps(clock, 20)
        assert (job.cached, job.created) == (0, 0)
        page = running.metrics_page().decode()
        assert 'enable_prefix_caching="False"' in page
        assert series(running)["vllm:prefix_cache_queries_total"] == 20


async def test_a_small_cache_evicts_and_shortens_the_context():
    async with engine() as (running, clock):
        send(running, 40)
        await clock.until_asleep()
        await advance_in_steps(clock, 40)
        running.inject(parse({"fault": "small_cache", "blocks": 6}))
        assert running.max_model_len == 20
        assert 'num_gpu_blocks="6"' in running.metrics_page().decode()
        assert len(running.ranks[0].cache._by_key) <= 5
        running.clear()
        assert running.max_model_len == 256


async def test_a_request_that_a_small_cache_can_never_hold_is_aborted():
    async with engine() as (running, clock):
        job = send(running, 100)
        await clock.until_asleep()
        running.inject(parse({"fault": "small_cache", "blocks": 6}))
        step = await asyncio.wait_for(job.progress.get(), 5)
        assert step.aborted
        assert running.ranks[0].cache.usage == 0


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_hanging_engine_stops_after_the_given_tokens(after):
    async with engine() as (running, clock):
        running.inject(parse({"fault": "hang", "after_tokens": after}))
        job = send(running, 4, answer=5)
        await clock.until_asleep()
        await advance_in_steps(clock, 50)
        assert job.emitted == after
        assert series(running)["vllm:num_requests_running"] == 1
        running.clear()
        await clock.settle()
        await advance_in_steps(clock, 50)
        assert job.emitted == 5


async def test_an_abort_comes_after_so_many_tokens():
    async with engine() as (running, clock):
        running.inject(parse({"fault": "abort", "after_tokens": 2, "count": 1}))
        dropped, next_one = send(running, 4, answer=5), send(running, 4, answer=5, first=50)
        await clock.until_asleep()
        await advance_in_steps(clock, 30)
        assert (dropped.emitted, next_one.emitted) == (2, 5)
        steps = [dropped.progress.get_nowait() for _ in range(3)]
        assert [step.aborted for step in steps] == [False, False, True]
        assert running.faults.all() == []


async def test_a_restart_begins_again_at_zero_with_a_new_start_time():
    async with engine() as (running, clock):
        send(running, 20)
        await clock.until_asleep()
        await advance_in_steps(clock, 20)
        before = series(running)
        await running.restart()
        after = series(running)
        assert before["vllm:prompt_tokens_total"] == 20
        assert after["vllm:prompt_tokens_total"] == 0
        assert after["process_start_time_seconds"] > before["process_start_time_seconds"]
        job = send(running, 20)
        await clock.until_asleep()
        assert job.cached == 0


async def test_the_same_seed_takes_the_same_time():
    ends = []
    for seed in (1, 1, 2):
        async with engine(jitter_ratio=0.2, seed=seed) as (running, clock):
            job = send(running, 10)
            await clock.until_asleep()
            while job.emitted < 3:
                await clock.advance(0.01)
            ends.append(job.last_token_at)
    assert ends[0] == ends[1] != ends[2]


async def test_an_idle_engine_sets_no_timer():
    async with engine() as (running, clock):
        await clock.settle()
        assert clock.asleep == 0
        job = send(running, 4)
        await clock.until_asleep()
        await advance_in_steps(clock, 10)
        assert (job.emitted, clock.asleep) == (3, 0)
