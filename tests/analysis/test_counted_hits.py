"""Cached tokens by the engine's counters: only those that cannot belong to another request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.hits.counted_hits import (
    counted_hits,
    external_hits,
    has_store,
    may_have_store,
    no_hits,
)
from exporter.engine.metrics.exposition import parse
from exporter.model.chat import Usage

BEFORE = parse(
    """\
process_start_time_seconds 1700000000
vllm:prefix_cache_queries_total{engine="0"} 5000
vllm:prefix_cache_hits_total{engine="0"} 1000
vllm:num_requests_running{engine="0"} 0
vllm:num_requests_waiting{engine="0"} 0
""",
    at=0.0,
    scrape_seconds=0.0,
)
AFTER = replace(BEFORE, queried_tokens=6000.0, hit_tokens=1800.0)


def test_an_idle_engine_that_looked_up_exactly_this_prompt_tells_its_hits():
    assert counted_hits(BEFORE, AFTER, 1000) == 800
    assert counted_hits(BEFORE, replace(AFTER, hit_tokens=1000.0), 1000) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (replace(BEFORE, requests_running=1.0), AFTER),
        (BEFORE, replace(AFTER, requests_running=1.0)),
        (replace(BEFORE, requests_waiting=1.0), AFTER),
        (BEFORE, replace(AFTER, requests_waiting=None)),
        (replace(BEFORE, requests_running=None), AFTER),
        (BEFORE, replace(AFTER, queried_tokens=6001.0)),  # a token of another client
        (BEFORE, replace(AFTER, queried_tokens=5999.0)),  # or ours on another engine
        (BEFORE, replace(AFTER, hit_tokens=None)),
        (BEFORE, replace(AFTER, hit_tokens=2001.0)),
        (BEFORE, replace(AFTER, hit_tokens=999.0)),
        (BEFORE, replace(AFTER, process_start_time=1_700_000_001.0)),
        (None, AFTER),
        (BEFORE, None),
    ],
)
def test_hits_that_may_belong_to_another_request_are_unknown(before, after):
    assert counted_hits(before, after, 1000) is None


@given(
    prompt=st.integers(1, 5000),
    ours=st.integers(0, 5000),
    others=st.integers(0, 5000),
    others_hit=st.integers(0, 5000),
)
def test_counted_hits_are_ours_or_unknown(prompt, ours, others, others_hit):
    hit = min(ours, prompt)
    after = replace(
        BEFORE,
        queried_tokens=5000.0 + prompt + others,
        hit_tokens=1000.0 + hit + min(others, others_hit),
    )
    assert counted_hits(BEFORE, after, prompt) == (hit if others == 0 else None)


# Tiers below the engine's own cache

STORE = replace(
    BEFORE, prompt_tokens=5000.0, external_queried_tokens=4000.0, external_hit_tokens=500.0
)
SPLIT = replace(
    STORE,
    queried_tokens=6000.0,
    prompt_tokens=6000.0,
    hit_tokens=1200.0,
    external_queried_tokens=4800.0,
    external_hit_tokens=1012.0,
)


def test_counted_hits_are_those_of_all_tiers():
    assert counted_hits(STORE, SPLIT, 1000) == 712
    assert external_hits(STORE, SPLIT, 1000, 712) == 512
    assert not no_hits(STORE, replace(SPLIT, hit_tokens=1000.0), 1000)


def test_a_prompt_had_nothing_from_a_store_whose_hits_did_not_grow_whatever_else_ran():
    busy = replace(SPLIT, external_hit_tokens=500.0, requests_running=3.0, queried_tokens=9000.0)
    assert external_hits(STORE, busy, 1000, 200) == 0


@pytest.mark.parametrize(
    ("before", "after", "cached"),
    [
        (STORE, replace(SPLIT, requests_running=1.0), 712),
        (STORE, replace(SPLIT, queried_tokens=6001.0), 712),
        (STORE, replace(SPLIT, prompt_tokens=5999.0), 712),  # our prompt is not counted yet
        (STORE, SPLIT, 710),  # usage says something else
        (STORE, SPLIT, 714),
        (STORE, replace(SPLIT, external_hit_tokens=None), 712),
        (STORE, replace(SPLIT, external_hit_tokens=499.0), 712),
        (STORE, replace(SPLIT, process_start_time=1_700_000_001.0), 712),
        (None, SPLIT, 712),
        (STORE, None, 712),
    ],
)
def test_the_part_of_a_store_that_may_be_another_requests_is_unknown(before, after, cached):
    assert external_hits(before, after, 1000, cached) is None


def test_a_store_shows_when_the_engine_looks_a_prompt_up_in_it():
    assert has_store(STORE)
    assert may_have_store(STORE)
    new = replace(STORE, external_queried_tokens=0.0, prompt_tokens=0.0)
    assert may_have_store(new)
    assert not has_store(new)
    for other in (replace(STORE, external_queried_tokens=0.0), BEFORE, None):
        assert not may_have_store(other)


@given(
    parts=st.tuples(*[st.integers(0, 3000)] * 3),
    others=st.tuples(*[st.integers(0, 3000)] * 3),
    ran=st.booleans(),
)
def test_the_split_is_that_of_the_prompt_or_unknown(parts, others, ran):
    """Whatever other requests hit: the split adds up to the cached tokens, and is never theirs."""
    local, external, new = parts
    more = others if ran else (0, 0, 0)
    grown = [own + other for own, other in zip(parts, more, strict=True)]
    after = replace(
        STORE,
        queried_tokens=STORE.queried_tokens + sum(grown),
        prompt_tokens=STORE.prompt_tokens + sum(grown),
        hit_tokens=STORE.hit_tokens + grown[0],
        external_queried_tokens=STORE.external_queried_tokens + grown[1] + grown[2],
        external_hit_tokens=STORE.external_hit_tokens + grown[1],
    )
    prompt, cached = local + external + new, local + external
    found = external_hits(STORE, after, prompt, cached)
    assert found in (external, None)
    if not any(more):
        assert found == external
        assert counted_hits(STORE, after, prompt) == cached
    usage = Usage(prompt, 1, cached, store=True, external_tokens=found)
    assert usage.local_tokens == (local if found is not None else None)
