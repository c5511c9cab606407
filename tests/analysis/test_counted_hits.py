"""Cached tokens by the engine's counters: only those that cannot belong to another request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.hits.counted_hits import counted_hits
from exporter.engine.metrics.exposition import parse

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
