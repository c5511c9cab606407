"""How targets are spread over an interval."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

from hypothesis import example, given
from hypothesis import strategies as st

from exporter.daemon.stagger import among, spread

INTERVAL = 60.0
seconds = st.floats(0, 1000, allow_nan=False)


def gaps(due: list[float]) -> list[float]:
    taken = sorted({each % INTERVAL for each in due})
    return [end - start for start, end in pairwise([*taken, taken[0] + INTERVAL])]


def widest_gap(due: list[float]) -> float:
    return max(gaps(due))


def test_several_targets_start_spread_over_one_interval():
    assert spread(4, INTERVAL) == [0.0, 15.0, 30.0, 45.0]
    assert spread(1, INTERVAL) == [0.0]
    assert among([], 4, INTERVAL) == spread(4, INTERVAL)


def test_a_new_target_goes_into_the_middle_of_the_widest_gap():
    assert among([0.0, 15.0, 45.0], 1, INTERVAL) == [30.0]
    assert among([50.0], 1, INTERVAL) == [20.0], "the interval is a circle"


def test_several_new_targets_divide_the_widest_gap_evenly():
    assert among([0.0, 45.0], 2, INTERVAL) == [15.0, 30.0]
    assert among([0.0, 30.0], 2, INTERVAL) == [15.0, 45.0]


@example([0.0, 5e-324], 1)
@given(st.lists(seconds, min_size=1, max_size=30), st.integers(1, 30))
def test_new_targets_leave_no_gap_wider_than_necessary(due, count):
    joined = among(due, count, INTERVAL)
    assert len(joined) == count
    assert joined == sorted(joined)
    assert all(0 <= each < INTERVAL for each in joined)
    narrower = widest_gap([*due, *joined]) * 0.999
    needed = sum(max(0, ceil(gap / narrower) - 1) for gap in gaps(due))
    assert needed > count, "so many could not have kept all gaps narrower"


@given(st.lists(seconds, min_size=1, max_size=30))
def test_the_widest_gap_is_the_one_that_is_halved(due):
    (joined,) = among(due, 1, INTERVAL)
    nearest = min(min((joined - each) % INTERVAL, (each - joined) % INTERVAL) for each in due)
    assert abs(nearest - widest_gap(due) / 2) < 1e-6
