"""Lookups in the prefix cache that the prompts do not explain are in no total."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from engine_pages import rank, read, series, vllm_page
from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.metrics.lookups import LONGEST_OPEN_SECONDS, TOLERANCE
from exporter.engine.metrics.totals import EngineHistory, carry

CACHE_OF_5120 = series(
    "vllm:cache_config_info", 1.0, {"engine": "0", "block_size": "32", "num_gpu_blocks": "160"}
)


def reading(
    at, queried, prompt, hit=4_000.0, *, running=1.0, waiting=0.0, cached=None, capacity=False
):
    page = vllm_page(queried=queried, hit=hit, prompt=prompt, cached=cached).decode()
    page = page.replace("num_requests_running{", "not_running{")
    page += rank("vllm:num_requests_running", running) + rank("vllm:num_requests_waiting", waiting)
    return replace(read(page + (CACHE_OF_5120 if capacity else "")), at=at)


def after(*readings):
    return reduce(carry, readings, EngineHistory())


START = reading(0.0, 10_000, 10_000, 4_000)


def test_lookups_of_a_request_that_waits_are_in_no_total_and_so_are_its_hits():
    """One request waits for the end of a long answer: seen on vLLM 0.10.2, in 160 blocks."""
    history = after(
        reading(0.0, 2_000, 2_000, 1_024, running=0.0, capacity=True),
        reading(10.0, 2_000 + 3_679_660, 2_000 + 5_650, 1_024 + 1_218_560, capacity=True),
    )
    totals = history.totals()
    assert (totals.queried_tokens, totals.hit_tokens, totals.saved_tokens) == (2_000, 1_024, 1_024)
    assert totals.prompt_tokens == 7_650
    assert history.recounted_at == 10.0


def test_saved_tokens_that_the_engine_counts_itself_are_not_changed():
    history = after(
        reading(0.0, 2_000, 2_000, 1_024, cached=1_024, capacity=True),
        reading(10.0, 3_772_815, 7_680, 1_270_336, cached=2_080, capacity=True),
    )
    totals = history.totals()
    assert (totals.queried_tokens, totals.hit_tokens) == (2_000, 1_024)
    assert totals.saved_tokens == 2_080


def test_lookups_after_the_left_out_ones_count_again():
    history = after(
        START,
        reading(10.0, 9_010_000, 12_000, 3_000_000, capacity=True),
        reading(20.0, 9_011_000, 13_000, 3_000_500, capacity=True),
    )
    assert history.totals().queried_tokens == 11_000
    assert history.totals().hit_tokens == 4_500


def test_a_long_prompt_under_way_counts_once_its_first_token_is_there():
    looked_up = reading(10.0, 110_000, 10_000, 54_000)
    open_ = after(START, looked_up, replace(looked_up, at=20.0))
    assert open_.totals().queried_tokens == 10_000
    assert open_.recounted_at is None
    done = carry(open_, reading(30.0, 110_000, 110_000, 54_000))
    assert done.totals().queried_tokens == 110_000
    assert done.totals().hit_tokens == 54_000
    assert done.recounted_at is None


def test_prompts_that_are_always_under_way_do_not_keep_the_totals_back():
    """A busy engine: at each reading between none and five prompts are looked up and not done."""
    history, under_way = START_HISTORY, [3, 5, 4, 0, 2, 5, 3, 1, 5, 4, 2, 3, 5, 5, 4]
    prompt = 10_000.0
    for number, count in enumerate(under_way * 4, start=1):
        prompt += 50_000
        history = carry(history, reading(number * 10.0, prompt + count * 4_000, prompt))
    assert history.recounted_at is None
    queried = history.totals().queried_tokens
    assert queried is not None
    assert prompt - 500_000 < queried <= prompt + 20_000


START_HISTORY = after(START)


def test_lookups_that_stand_ahead_of_the_prompts_of_an_idle_engine_were_recounted():
    history = after(START, reading(10.0, 30_000, 12_000, running=0.0))
    assert (history.totals().queried_tokens, history.recounted_at) == (10_000, None)
    history = carry(history, reading(20.0, 30_000, 12_000, running=0.0))
    assert (history.totals().queried_tokens, history.recounted_at) == (10_000, 20.0)


@pytest.mark.parametrize("busy", [{"running": 1.0}, {"waiting": 1.0}])
def test_while_a_request_runs_or_waits_its_prompt_may_still_follow(busy):
    history = after(START, *(reading(10.0 * n, 30_000, 12_000, **busy) for n in range(1, 9)))
    assert history.recounted_at is None
    assert history.totals().queried_tokens == 10_000


def test_no_prompt_is_waited_for_without_end():
    readings = [reading(10.0, 30_000, 12_000), reading(9.0 + LONGEST_OPEN_SECONDS, 31_000, 12_000)]
    history = after(START, *readings)
    assert history.recounted_at is None
    late = 10.0 + LONGEST_OPEN_SECONDS
    history = carry(history, reading(late, 31_000, 12_000))
    assert history.recounted_at == late


def test_the_rule_also_covers_counts_before_the_first_reading():
    history = after(reading(0.0, 3_700_000, 5_650, 1_200_000, capacity=True))
    totals = history.totals()
    assert (totals.queried_tokens, totals.hit_tokens, totals.saved_tokens) == (None, None, None)
    assert totals.prompt_tokens == 5_650
    history = carry(history, reading(10.0, 3_701_000, 6_650, 1_200_400, capacity=True))
    assert (history.totals().queried_tokens, history.totals().hit_tokens) == (1_000, 400)


def test_a_restarted_engine_is_held_to_its_own_prompts():
    again = replace(reading(10.0, 500_000, 2_000, capacity=True), process_start_time=1_800_000_000)
    history = after(START, again)
    assert history.restarts == 1
    assert history.totals().queried_tokens == 10_000
    assert history.recounted_at == 10.0


@pytest.mark.parametrize("prompt", [None, 0.0])
def test_without_a_count_of_prompts_lookups_are_trusted(prompt):
    history = after(reading(0.0, 100.0, prompt), reading(10.0, 9_000, prompt, running=0.0))
    assert history.totals().queried_tokens == 9_000


def test_prompts_that_were_never_looked_up_hide_nothing_of_the_rest():
    """With prompt_logprobs vLLM looks nothing up."""
    history = after(START, reading(10.0, 11_000, 30_000))
    assert history.totals().queried_tokens == 11_000


STEPS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**4), st.booleans()), min_size=1, max_size=20
)


@given(STEPS)
def test_the_total_is_never_more_than_the_prompts_and_the_tolerance(steps):
    """Whatever an engine counts; the first reading has prompts, as one that is in use has."""
    queried, prompt = 1_000.0, 1_000.0
    history = after(reading(0.0, queried, prompt))
    for number, (looked_up, computed, busy) in enumerate(steps, start=1):
        queried, prompt = queried + looked_up, prompt + computed
        history = carry(history, reading(number * 10.0, queried, prompt, running=float(busy)))
        total = history.totals().queried_tokens
        assert total is not None
        assert total <= prompt * (1 + TOLERANCE)
