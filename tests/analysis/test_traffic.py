"""What the engine's counters say about other clients and about us between two readings."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.hits.traffic import OwnTraffic, traffic_between
from exporter.engine.metrics.exposition import parse

PAGE = (Path(__file__).parent / "data" / "devevict_metrics.txt").read_bytes()
BEFORE = replace(parse(PAGE, at=0, scrape_seconds=0), requests_running=0.0, requests_waiting=0.0)
OWN = OwnTraffic(prompt=1000, cached=0, completion=16)


def after(*, queried=1000, computed=1000, generated=16, hits=0):
    """A later reading, by how much each counter grew."""
    return replace(
        BEFORE,
        queried_tokens=BEFORE.queried_tokens + queried,
        prompt_tokens=None if computed is None else BEFORE.prompt_tokens + computed,
        generation_tokens=BEFORE.generation_tokens + generated,
        hit_tokens=None if hits is None else BEFORE.hit_tokens + hits,
    )


def test_traffic_that_is_not_ours_is_foreign():
    traffic = traffic_between(BEFORE, after(queried=1500, computed=1500, generated=26), OWN)
    assert (traffic.foreign, traffic.alone) == (510, False)


def test_counters_that_started_again_show_no_traffic():
    assert traffic_between(BEFORE, replace(BEFORE, queried_tokens=5.0), OwnTraffic()) is None
    assert traffic_between(None, BEFORE, OwnTraffic()) is None
    assert traffic_between(BEFORE, replace(BEFORE, generation_tokens=None), OwnTraffic()) is None


def test_recounted_lookups_are_not_foreign_prompts():
    """Below vLLM 0.27 a waiting request counts at each step: 2.2 million lookups, and no user."""
    traffic = traffic_between(BEFORE, after(queried=2_233_318), OWN)
    assert traffic.foreign == 0
    assert traffic_between(BEFORE, after(queried=2_233_318, computed=1400), OWN).foreign == 400
    assert traffic_between(BEFORE, after(queried=5000, computed=None), OWN).foreign == 4000


@pytest.mark.parametrize(
    ("queried", "hits", "told", "least", "most"),
    [
        (1000, 960, 960, 0, 0),
        (1000, 960, 0, 960, 960),
        (1300, 960, 0, 660, 960),  # others may have hit all of their 300
        (1300, 300, 0, 0, 300),
        (5000, 960, 0, -3040, 960),
    ],
)
def test_our_unreported_hits_lie_between_two_bounds(queried, hits, told, least, most):
    own = replace(OWN, cached=told)
    traffic = traffic_between(BEFORE, after(queried=queried, computed=queried, hits=hits), own)
    assert (traffic.unreported_hits, traffic.hits_beyond) == (least, most)


def test_without_a_hit_counter_the_bounds_are_unknown():
    traffic = traffic_between(BEFORE, after(hits=None), OWN)
    assert (traffic.unreported_hits, traffic.hits_beyond) == (None, None)


@given(
    ours=st.integers(0, 5000),
    our_hits=st.integers(0, 5000),
    theirs=st.integers(0, 5000),
    their_hits=st.integers(0, 5000),
    again=st.integers(0, 5),
)
def test_the_bounds_hold_for_any_foreign_traffic(ours, our_hits, theirs, their_hits, again):
    """Also where a waiting request of either is counted again, with its hits."""
    our_hits, their_hits = min(our_hits, ours), min(their_hits, theirs)
    grown = after(
        queried=(ours + theirs) * (1 + again),
        computed=ours + theirs,
        hits=(our_hits + their_hits) * (1 + again),
    )
    traffic = traffic_between(BEFORE, grown, OwnTraffic(prompt=ours, completion=16))
    assert traffic.unreported_hits <= our_hits <= traffic.hits_beyond
    assert traffic.foreign == theirs


def test_an_engine_that_counts_blocks_misses_no_part_of_a_block():
    """A prompt of 2071 tokens is 129 blocks of 16 to vLLM 0.8.5."""
    before = replace(BEFORE, lookup_step_tokens=16, queried_tokens=0.0)
    later = replace(before, queried_tokens=2064.0, generation_tokens=before.generation_tokens + 1)
    traffic = traffic_between(before, later, OwnTraffic(prompt=2071, completion=1))
    assert (traffic.elsewhere, traffic.foreign) == (0.0, 0.0)
    one = replace(later, lookup_step_tokens=1)
    assert traffic_between(before, one, OwnTraffic(prompt=2071, completion=1)).elsewhere == 7.0


def test_sums_of_a_page_that_an_engine_left_or_joined_show_no_traffic():
    a, b = (("pod", "a"),), (("pod", "b"),)
    both, one = replace(BEFORE, parts={a: BEFORE, b: BEFORE}), replace(BEFORE, parts={a: BEFORE})
    assert traffic_between(both, both, OwnTraffic()) is not None
    assert traffic_between(both, one, OwnTraffic()) is None
    assert traffic_between(one, both, OwnTraffic()) is None
