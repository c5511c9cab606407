"""The first prompt is as long as its statistics need, and no longer than the cache can afford."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.scenario.opening import wanted_opening


@pytest.mark.parametrize(
    ("capacity", "tokens"),
    [(80_000, 400), (409_400, 2047), (500_000, 2048), (2_000_000, 2048), (None, 2048)],
)
def test_a_small_cache_gets_a_shorter_opening(capacity, tokens):
    assert wanted_opening(16, capacity) == tokens
    assert wanted_opening(None, capacity) == tokens


@pytest.mark.parametrize(("unit", "tokens"), [(64, 512), (784, 6272)])
def test_eight_match_units_come_first(unit, tokens):
    assert wanted_opening(unit, 80_000) == tokens


@given(unit=st.integers(1, 4096), less=st.integers(0, 10**7), more=st.integers(0, 10**7))
def test_a_larger_cache_never_gets_a_shorter_opening(unit, less, more):
    shorter, longer = wanted_opening(unit, less), wanted_opening(unit, less + more)
    assert 8 * unit <= shorter <= longer <= max(2048, 8 * unit)
