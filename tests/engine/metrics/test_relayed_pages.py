"""Pages with labels that are not vLLM's: of a router, or of several engines in one."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest
from engine_pages import rank, read, series
from hypothesis import given
from hypothesis import strategies as st
from scraper_bench import events

from exporter.engine.metrics.histories import _ENGINES_KEPT, Histories, carry_page

QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"


def pods(label: str = "server", **queried: float) -> str:
    """A page with these engines, told apart by `label`; half of what they look up hits."""
    return "".join(
        series(QUERIES, value, {label: name, "model_name": "tiny"})
        + series(HITS, value / 2, {label: name, "model_name": "tiny"})
        for name, value in queried.items()
    )


def after(*pages: str) -> Histories:
    readings = [replace(read(page), at=10.0 * number) for number, page in enumerate(pages)]
    return reduce(carry_page, readings, Histories())


# What a page says


@pytest.mark.parametrize("label", ["server", "pod", "instance", "url", "worker", "backend", "x"])
def test_series_that_differ_by_a_foreign_label_are_several_engines(label):
    snapshot = read(pods(label, a=100.0, b=300.0))
    assert len(snapshot.parts) == 2
    assert snapshot.engine_labels == (label,)
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == (400.0, 200.0)
    assert [one.queried_tokens for one in snapshot.parts.values()] == [100.0, 300.0]
    assert snapshot.ranks == 2


def test_ranks_models_and_processes_of_one_engine_are_one_engine():
    page = rank(QUERIES, 1.0, 0) + rank(QUERIES, 2.0, 1) + rank(QUERIES, 4.0, 1, pid="77")
    page += rank(HITS, 1.0, 0) + rank(HITS, 1.0, 1) + rank(HITS, 1.0, 1, pid="77")
    snapshot = read(page)
    assert snapshot.parts == {}
    assert (snapshot.queried_tokens, snapshot.ranks) == (7.0, 2)


def test_one_engine_under_a_foreign_label_is_one_engine_on_a_routers_page():
    snapshot = read(pods("pod", a=100.0))
    assert len(snapshot.parts) == 1
    assert (snapshot.queried_tokens, snapshot.ranks) == (100.0, 1)


def test_ranks_of_several_engines_are_added_up():
    page = "".join(rank(QUERIES, 5.0, engine, pod=pod) for engine in range(2) for pod in "ab")
    snapshot = read(page)
    assert (len(snapshot.parts), snapshot.ranks, snapshot.queried_tokens) == (2, 4, 20.0)


def test_a_family_that_is_0_throughout_is_not_known_to_the_router():
    page = pods(a=0.0, b=0.0) + "".join(
        series("vllm:num_requests_running", value, {"server": name})
        + series("vllm:num_requests_waiting", 0.0, {"server": name})
        for name, value in (("a", 0.0), ("b", 3.0))
    )
    snapshot = read(page)
    assert (snapshot.queried_tokens, snapshot.hit_tokens) == (None, None)
    assert snapshot.requests_waiting is None
    assert snapshot.requests_running == 3.0
    assert snapshot.ranks == 2


def test_a_page_of_zeros_is_still_a_page_of_vllms():
    assert read(pods(a=0.0, b=0.0)).ranks == 2


def test_a_family_that_lacks_an_engine_is_unknown():
    page = pods(a=1.0, b=2.0) + series("vllm:num_requests_running", 3.0, {"server": "a"})
    assert read(page).requests_running is None
    assert read(page).queried_tokens == 3.0


def test_the_start_time_of_the_router_is_no_engines():
    snapshot = read(pods(a=1.0, b=2.0) + series("process_start_time_seconds", 1.7e9))
    assert snapshot.process_start_time is None
    collected = read(pods(a=1.0) + series("process_start_time_seconds", 1.7e9, {"server": "a"}))
    assert collected.process_start_time == 1.7e9


def test_the_version_of_a_router_does_not_show_the_unit():
    labels = {"server": "a"}
    page = series("vllm:gpu_prefix_cache_queries_total", 100.0, labels)
    assert read(page, version="0.10.2").queried_tokens is None


def test_the_cache_of_several_engines_has_the_values_they_share():
    def config(pod: str, blocks: str) -> str:
        labels = {"pod": pod, "engine": "0", "block_size": "16", "num_gpu_blocks": blocks}
        return series("vllm:cache_config_info", 1.0, labels)

    page = pods("pod", a=1.0, b=2.0)
    assert read(page).cache is None
    assert read(page + config("a", "100")).cache is None
    cache = read(page + config("a", "100") + config("b", "200")).cache
    assert cache is not None
    assert (cache.block_size, cache.num_blocks, cache.capacity_tokens) == (16, None, None)
    assert "block_size" in cache.labels
    assert "num_gpu_blocks" not in cache.labels


@pytest.mark.parametrize(
    ("awake", "asleep"), [((0.0, 0.0), True), ((1.0, 1.0), False), ((1.0, 0.0), None)]
)
def test_a_page_of_several_is_asleep_where_all_of_them_are(awake, asleep):
    page = pods("pod", a=1.0, b=2.0)
    for pod, value in zip("ab", awake, strict=True):
        page += series("vllm:engine_sleep_state", value, {"pod": pod, "sleep_state": "awake"})
    assert read(page).asleep is asleep


# Totals


def test_an_engine_that_leaves_lowers_no_total_and_is_no_restart():
    history = after(pods(a=1_000.0, b=2_000.0), pods(a=1_100.0))
    assert history.totals().queried_tokens == 3_100.0
    assert history.totals().hit_tokens == 1_550.0
    assert history.restarts == 0


def test_what_an_engine_counted_before_it_joined_is_no_growth():
    history = after(pods(a=1_000.0), pods(a=1_000.0, b=9_000.0))
    assert history.totals().queried_tokens == 1_000.0
    history = carry_page(history, read(pods(a=1_000.0, b=9_500.0)))
    assert history.totals().queried_tokens == 1_500.0
    assert history.totals().hit_tokens == 750.0


def test_an_engine_that_comes_back_goes_on_from_where_it_was():
    history = after(pods(a=1_000.0, b=2_000.0), pods(a=1_000.0), pods(a=1_000.0, b=2_300.0))
    assert history.totals().queried_tokens == 3_300.0


def test_an_engine_that_is_restarted_behind_the_router_is_a_restart():
    history = after(pods(a=1_000.0, b=2_000.0), pods(a=1_100.0, b=50.0))
    assert history.totals().queried_tokens == 3_150.0
    assert history.restarts == 1


def test_an_engine_whose_page_is_shown_by_a_router_from_now_on_does_not_jump():
    history = after(
        rank(QUERIES, 5_000.0) + rank(HITS, 1_000.0), pods(a=7_000.0), pods(a=7_100.0, b=1.0)
    )
    assert history.totals().queried_tokens == 5_100.0


def test_a_number_that_one_engine_lacks_is_unknown_while_it_is_shown():
    prompt = series("vllm:prompt_tokens_total", 1_000.0, {"server": "a", "model_name": "tiny"})
    history = after(pods(a=1_000.0, b=2_000.0) + prompt)
    assert history.totals().prompt_tokens is None
    assert history.totals().queried_tokens == 3_000.0
    assert after(pods(a=1_000.0) + prompt).totals().prompt_tokens == 1_000.0


def test_a_number_that_a_joined_engine_has_later_is_no_growth_either():
    nan = series(QUERIES, "NaN", {"server": "b", "model_name": "tiny"})
    nan += series(HITS, 1.0, {"server": "b", "model_name": "tiny"})
    history = after(pods(a=1_000.0), pods(a=1_000.0) + nan, pods(a=1_000.0, b=9_000.0))
    assert history.totals().queried_tokens == 1_000.0


def test_pods_that_are_replaced_again_and_again_become_one_sum():
    history, expected = after(pods(a=1_000.0)), 1_000.0
    for number in range(3 * _ENGINES_KEPT):
        name = f"pod{number}"
        history = carry_page(history, read(pods(a=1_000.0, **{name: 10.0})))
        history = carry_page(history, read(pods(a=1_000.0, **{name: 17.0})))
        expected += 7.0
    assert len(history.engines) == _ENGINES_KEPT
    assert history.totals().queried_tokens == expected


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=1)))
def test_totals_never_fall_when_engines_join_and_leave(steps):
    history, counters, before = after(pods(a=10.0)), dict.fromkeys("abcd", 10.0), 10.0
    for grown in steps:
        for name, tokens in grown.items():
            counters[name] += tokens
        history = carry_page(history, read(pods(**{name: counters[name] for name in grown})))
        total = history.totals().queried_tokens
        assert total is not None
        assert total >= before
        before = total


# In the daemon


async def test_a_routers_page_is_said_to_be_of_several_engines_and_has_no_version(engine, bench):
    engine.version = "0.1.8"
    engine.page = pods(a=1_000.0, b=2_000.0).encode()
    async with bench.running():
        view = bench.views[-1]
        assert view.failure is None
        assert (view.mixed, view.info.version, view.info.model) == (True, None, "tiny")
        engine.page = pods(a=1_600.0).encode()
        view = await bench.next_round()
        assert (view.totals.queried_tokens, view.restarts) == (3_600.0, 0)
        assert view.hit_ratios["1m"] == 0.5


async def test_one_engine_behind_a_label_is_not_called_several(engine, bench, logs):
    engine.page = pods("pod", a=1_000.0).encode()
    async with bench.running():
        view = await bench.next_round()
    assert (view.mixed, view.info.version) == (False, None)
    assert events(logs) == []


async def test_pages_of_replicas_in_turn_with_their_own_labels_are_detected(engine, bench):
    async with bench.running():
        for page, mixed in (("a", False), ("b", False), ("a", True)):
            engine.page = pods("pod", **{page: 1_000.0}).encode()
            view = await bench.next_round()
            assert view.mixed is mixed
            assert view.failure is None
