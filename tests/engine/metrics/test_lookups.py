"""Lookups in the prefix cache that the prompts do not explain are in no total."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from engine_pages import rank, read, series, vllm_page
from hypothesis import assume, given
from hypothesis import strategies as st

from exporter.engine.metrics.lookups import LONGEST_OPEN_SECONDS, TOLERANCE, may_recount
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


def quiet(at, queried, prompt, *, generated=0.0, used=0.0, capacity=True):
    """An engine that runs nothing at the moment, or `used` of its cache."""
    one = reading(at, queried, prompt, running=0.0, capacity=capacity)
    return replace(one, generation_tokens=generated, kv_cache_usage_ratio=used)


def test_a_prompt_that_was_cancelled_before_its_first_token_counts_as_a_lookup_of_a_quiet_engine():
    start = quiet(0.0, 10_000, 10_000)
    history = after(start, quiet(10.0, 12_000, 10_050), quiet(20.0, 12_000, 10_050))
    assert history.recounted_at is None
    assert history.totals().queried_tokens == 12_000


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (quiet(0.0, 10_000, 10_000, used=0.5), (12_000, 10_050, 0.0)),
        (quiet(0.0, 10_000, 10_000), (13_000, 10_050, 0.0)),
        (quiet(0.0, 10_000, 10_000), (12_000, 10_050, 800.0)),
        (quiet(0.0, 10_000, 10_000, capacity=False), (12_000, 10_050, 0.0)),
        (quiet(0.0, 10_000, 10_000, used=None), (12_000, 10_050, 0.0)),
        (quiet(0.0, 10_000, 10_000, generated=None), (12_000, 10_050, None)),
    ],
)
def test_where_a_request_may_have_waited_for_room_or_nobody_knows_lookups_are_left_out(start, end):
    queried, prompt, generated = end
    known = start.cache is not None
    last = quiet(10.0, queried, prompt, generated=generated, capacity=known)
    history = after(start, last, replace(last, at=20.0))
    assert history.recounted_at == 20.0
    assert history.totals().queried_tokens == 10_000


@given(
    lengths=st.lists(st.integers(32, 5_000), max_size=6),
    waiting=st.integers(32, 5_000),
    looked_up=st.integers(2, 9),
    used=st.floats(0.0, 1.0),
)
def test_a_prompt_that_waited_for_room_is_never_taken_for_a_cancelled_one(
    lengths, waiting, looked_up, used
):
    """The admitted prompts fill whole blocks of 32 tokens; the waiting one does not fit beside."""
    held = sum(-(-length // 32) * 32 for length in lengths)
    assume(used * 5_120 + held + -(-waiting // 32) * 32 > 5_120)
    start = quiet(0.0, 10_000, 10_000, used=used)
    queried = 10_000 + sum(lengths) + waiting * looked_up
    prompt = 10_000 + sum(lengths)
    assume(queried - 10_000 > (prompt - 10_000) * (1 + TOLERANCE))
    last = quiet(10.0, queried, prompt)
    history = after(start, last, replace(last, at=20.0))
    assert history.recounted_at is not None
    assert history.totals().queried_tokens == 10_000


@pytest.mark.parametrize(
    ("version", "may"),
    [("0.8.5", True), ("0.26.0", True), ("0.27.1", False), ("0.33.0", False), (None, True),
     ("1.4.2", True)],
)  # fmt: skip
def test_a_version_counts_lookups_again_up_to_0_26_or_if_it_is_unknown(version, may):
    assert may_recount(version) is may
    last = reading(10.0, 9_010_000, 12_000, 3_000_000, capacity=True)
    history = carry(START_HISTORY, last, recounts=may)
    history = carry(history, replace(last, at=20.0 + LONGEST_OPEN_SECONDS), recounts=may)
    assert (history.recounted_at is not None) is may
    assert history.totals().queried_tokens == (10_000 if may else 9_010_000)


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
