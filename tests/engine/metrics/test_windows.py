"""The rolling hit ratio of all traffic."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.metrics.windows import Sample, hit_ratios, observe
from exporter.model.engine import EngineTotals


def observed(*points: tuple[float, float, float]) -> tuple[Sample, ...]:
    """The samples after readings of (at, queried, hit)."""
    samples: tuple[Sample, ...] = ()
    for at, queried, hit in points:
        totals = EngineTotals(queried_tokens=queried, hit_tokens=hit)
        samples = observe(samples, totals, at=at, whole=True)
    return samples


def test_one_reading_gives_no_ratio():
    assert hit_ratios(observed((0, 1000, 900)), at=0) == {}
    assert hit_ratios((), at=0) == {}


def test_the_ratio_is_of_what_was_queried_between_the_readings():
    samples = observed((0, 1000, 0), (10, 1100, 75))
    assert hit_ratios(samples, at=10) == {"1m": 0.75, "5m": 0.75, "1h": 0.75}


def test_without_traffic_there_is_no_ratio():
    assert hit_ratios(observed((0, 1000, 500), (10, 1000, 500)), at=10) == {}


def test_traffic_without_a_hit_is_a_ratio_of_zero():
    assert hit_ratios(observed((0, 0, 0), (10, 100, 0)), at=10)["1m"] == 0.0


def test_each_window_looks_back_as_far_as_its_name_says():
    samples = observed((0, 0, 0), (3000, 100, 100), (3400, 200, 100), (3550, 300, 200))
    samples = observe(
        samples, EngineTotals(queried_tokens=400.0, hit_tokens=220.0), at=3600, whole=True
    )
    ratios = hit_ratios(samples, at=3600)
    assert ratios == pytest.approx({"1m": 20 / 100, "5m": 120 / 200, "1h": 220 / 400})


def test_a_window_without_recent_samples_is_left_out():
    samples = observed((0, 0, 0), (10, 100, 50))
    assert hit_ratios(samples, at=60) == {"1m": 0.5, "5m": 0.5, "1h": 0.5}
    assert hit_ratios(samples, at=61) == {"5m": 0.5, "1h": 0.5}
    assert hit_ratios(samples, at=4000) == {}


def test_samples_are_dropped_when_one_of_the_counters_is_missing():
    """A restart in that time would be bridged for one counter and not for the other."""
    samples = observed((0, 0, 0), (10, 100, 50))
    totals = EngineTotals(queried_tokens=200.0, hit_tokens=50.0)
    assert observe(samples, totals, at=20, whole=False) == ()


def test_an_engine_without_the_counters_has_no_samples():
    assert observe((), EngineTotals(prompt_tokens=5.0), at=0, whole=True) == ()


def test_more_hits_than_queries_is_no_ratio():
    assert hit_ratios(observed((0, 0, 0), (10, 100, 150)), at=10) == {}


def test_every_sample_of_five_minutes_is_kept_and_one_in_two_minutes_before():
    samples = observed(*((10.0 * n, 100.0 * n, 50.0 * n) for n in range(1000)))
    times = [sample.at for sample in samples]
    recent = [10.0 * n for n in range(969, 1000)]
    assert times[-31:] == recent
    older = times[: -len(recent)]
    assert all(later - earlier == 120 for earlier, later in pairwise(older))
    assert older[0] <= 9990 - 3600 + 120, "the longest window begins two minutes late at most"
    assert len(samples) < 60


@given(st.lists(st.floats(0.01, 20.0), min_size=1, max_size=60), st.integers(1, 40))
def test_the_number_of_samples_is_bounded_for_any_interval(gaps, times):
    at, points = 0.0, []
    for gap in gaps * times:
        at += gap
        points.append((at, at * 10, at * 5))
    samples = observed(*points)
    assert len(samples) <= 300 / 5 + 3300 / 120 + 4
    assert samples[-1].at == at
    assert all(earlier.at < later.at for earlier, later in pairwise(samples))


def test_reading_twice_a_second_keeps_a_sample_for_every_window():
    samples = observed(*((n / 2, n * 1.0, n * 0.5) for n in range(8000)))
    assert len(samples) <= 723
    assert hit_ratios(samples, at=3999.5) == pytest.approx({"1m": 0.5, "5m": 0.5, "1h": 0.5})


@given(
    st.lists(
        st.tuples(st.floats(0.5, 100), st.integers(0, 1000), st.floats(0, 1)),
        min_size=2,
        max_size=50,
    )
)
def test_every_ratio_is_between_zero_and_one_and_of_its_own_window(steps):
    at = queried = hit = 0.0
    samples = observed((at, queried, hit))
    for gap, tokens, share in steps:
        at, queried, hit = at + gap, queried + tokens, hit + int(tokens * share)
        totals = EngineTotals(queried_tokens=queried, hit_tokens=hit)
        samples = observe(samples, totals, at=at, whole=True)
        for ratio in hit_ratios(samples, at=at).values():
            assert 0.0 <= ratio <= 1.0
