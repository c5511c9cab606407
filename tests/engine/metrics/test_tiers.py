"""Hits in tiers below the engine's own cache: where they came from, and the ratio with them."""

from __future__ import annotations

from functools import reduce

import pytest
from engine_pages import rank, read, series
from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.metrics.histories import Histories, carry_page
from exporter.model.engine import EngineTotals

QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
ASKED, FOUND = "vllm:external_prefix_cache_queries_total", "vllm:external_prefix_cache_hits_total"
PROMPTS, TIERS = "vllm:prompt_tokens_by_source_total", "vllm:prompt_tokens_cached_by_source_total"


def page(queried=0.0, hit=0.0, external=None, engine=0, start=1.0, **sources: float) -> str:
    """One rank. `sources` are the tiers of vLLM since 0.32."""
    text = series("process_start_time_seconds", start)
    text += rank(QUERIES, queried, engine) + rank(HITS, hit, engine)
    if external is not None:
        text += rank(ASKED, queried - hit, engine) + rank(FOUND, external, engine)
    return text + "".join(rank(TIERS, n, engine, source=name) for name, n in sources.items())


def after(*pages: str) -> EngineTotals:
    return reduce(carry_page, map(read, pages), Histories()).totals()


def test_the_tiers_of_all_ranks_are_added_up():
    snapshot = read(page(100, 40, 30, 0, device=40, host=30) + page(10, 4, 3, 1, device=4, host=3))
    assert (snapshot.external_queried_tokens, snapshot.external_hit_tokens) == (66, 33)
    assert snapshot.cached_by_source == {"device": 44, "host": 33}


def test_before_0_32_the_sources_are_the_own_cache_and_the_connector():
    text = "".join(
        rank(PROMPTS, n, source=name)
        for name, n in {"local_compute": 9, "local_cache_hit": 5, "external_kv_transfer": 2}.items()
    )
    snapshot = read(page() + text)
    assert snapshot.cached_by_source == {"local_cache_hit": 5, "external_kv_transfer": 2}
    assert snapshot.local_cached_tokens == 5


def test_a_source_that_a_rank_does_not_show_is_unknown():
    snapshot = read(page(engine=0, device=1, host=2) + page(engine=1, device=3))
    assert snapshot.cached_by_source == {"device": 4}


def test_an_engine_without_the_families_has_no_external_hits_to_tell():
    totals = after(page(100, 40))
    assert (totals.external_hit_tokens, totals.stored_tokens) == (None, None)
    assert totals.effective_hit_tokens is None


def test_without_a_store_the_hits_of_all_tiers_are_those_of_the_own_cache():
    assert after(page(100, 40, 0)).effective_hit_tokens == 40


def test_tiers_are_continued_over_a_restart():
    totals = after(
        page(100, 40, 30, start=1, device=40, disk=30), page(10, 4, 3, start=2, device=4, disk=3)
    )
    assert (totals.external_queried_tokens, totals.external_hit_tokens) == (66, 33)
    assert totals.cached_by_source == {"device": 44, "disk": 33}
    assert totals.effective_hit_tokens == 77


def test_a_source_that_a_new_version_lacks_keeps_its_total():
    totals = after(page(100, 40, 30, start=1, device=40), page(100, 40, 35, start=2))
    assert totals.cached_by_source == {"device": 40}


def test_what_another_instance_computed_for_the_request_is_no_hit():
    totals = after(page(100, 40, 59, device=40, p2p=59))
    assert (totals.external_hit_tokens, totals.stored_tokens) == (59, 0)
    assert totals.effective_hit_tokens == 40


def test_engines_on_one_page_have_their_own_sources():
    both = "".join(
        series(TIERS, n, {"server": name, "model_name": "tiny", "source": "host"})
        + series(QUERIES, 10, {"server": name, "model_name": "tiny"})
        for name, n in {"a": 5, "b": 7}.items()
    )
    assert len(read(both).parts) == 2
    assert after(both).cached_by_source == {"host": 12}


@pytest.mark.parametrize("value", ["NaN", "-1"])
def test_a_source_that_is_no_number_of_tokens_is_unknown(value):
    assert read(page() + rank(TIERS, value, source="host")).cached_by_source == {}


COUNTS = st.tuples(*[st.integers(0, 5_000)] * 4)


@given(st.lists(st.tuples(COUNTS, st.booleans()), min_size=1, max_size=20))
def test_the_totals_never_fall_and_hits_are_never_more_than_lookups(steps):
    start, sums, last, pages = 1.0, [0, 0, 0, 0], EngineTotals(), []
    for grown, restart in steps:
        if restart:
            start, sums = start + 1, [0, 0, 0, 0]
        sums = [total + more for total, more in zip(sums, grown, strict=True)]
        own, stored, moved, computed = sums
        looked_up = own + stored + moved + computed
        pages.append(
            page(looked_up, own, stored + moved, start=start, device=own, host=stored, p2p=moved)
        )
        now = after(*pages)
        assert now.stored_tokens == now.cached_by_source["host"] >= (last.stored_tokens or 0)
        assert now.queried_tokens >= now.effective_hit_tokens >= (last.effective_hit_tokens or 0)
        assert now.hit_tokens == now.cached_by_source["device"]
        last = now
