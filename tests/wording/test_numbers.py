"""Numbers and times for people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.wording import numbers


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (None, numbers.UNKNOWN),
        (0, "0 %"),
        (1, "100 %"),
        (0.8, "80.0 %"),
        (0.68333, "68.3 %"),
        (0.99999, "> 99.9 %"),
        (0.00001, "< 0.1 %"),
    ],
)
def test_a_percentage_is_rounded_but_never_to_all_or_nothing(ratio, text):
    assert numbers.percent(ratio) == text


@given(st.floats(0, 1))
def test_only_exactly_0_and_1_are_0_and_100_percent(ratio):
    assert (numbers.percent(ratio) == "100 %") == (ratio == 1)
    assert (numbers.percent(ratio) == "0 %") == (ratio == 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, numbers.UNKNOWN),
        (0.0, "0 ms"),
        (0.00123, "1.23 ms"),
        (0.0625, "62.5 ms"),
        (0.4996, "500 ms"),
        (0.9996, "1 s"),
        (1.5, "1.50 s"),
        (61.5, "62 s"),
        (300, "5 min"),
        (7200, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(value, text):
    assert numbers.seconds(value) == text


@given(st.floats(0, 1e7))
def test_a_duration_never_shows_an_exponent(value):
    assert "e" not in numbers.seconds(value)


@pytest.mark.parametrize(
    ("at", "text"), [(100, "now"), (99, "1 s ago"), (40, "60 s ago"), (130, "in 30 s")]
)
def test_a_time_is_shown_relative_to_now(at, text):
    assert numbers.ago(at, 100) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (9e9, "9.0 GB")]
)
def test_bytes_have_decimal_units(value, text):
    assert numbers.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, numbers.UNKNOWN), (1, "1 token"), (12345, "12,345 tokens")]
)
def test_tokens_have_thousands_separators(value, text):
    assert numbers.tokens(value) == text
