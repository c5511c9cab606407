"""What a benchmark's table says of its figures."""

from __future__ import annotations

import pytest
from figures import Baseline, Figure, as_markdown, as_text, change, rows, write_baseline


def figure(*values, goal=None, key="k"):
    return Figure(key, "time", "ms", values, goal)


def test_a_row_has_the_median_the_quartiles_and_how_many():
    (row,) = rows([figure(1, 2, 3, 4, 100, goal=5)], None)
    assert row == ("time", "3 ms", "2 to 4", "5", "5", "")


def test_of_few_values_the_spread_is_their_range():
    (row,) = rows([figure(1, 9)], None)
    assert row[2] == "1 to 9"


def test_a_goal_that_is_missed_is_marked():
    (row,) = rows([figure(6, 6, 6, goal=5)], None)
    assert row[4] == "5 MISSED"


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        ((10, 11, 12, 13), False),  # as before
        ((11, 12, 13, 14), False),  # within the spread
        ((20, 21, 22, 23), True),
        ((5, 6, 7, 8), False),  # better
        ((10, 20, 30, 40), False),  # so wide that it says nothing
    ],
)
def test_a_figure_is_worse_beyond_the_spread_and_a_tenth(now, worse):
    moved = change(figure(*now), figure(10, 11, 12, 13))
    assert moved.is_regression is worse
    assert ("WORSE" in str(moved)) is worse


def test_a_tiny_change_is_never_worse():
    moved = change(figure(1.0101, 1.0101), figure(1, 1))
    assert moved.spreads == float("inf")
    assert not moved.is_regression


def test_a_figure_that_the_baseline_lacks_is_compared_with_nothing():
    assert change(figure(1), None) is None


def test_a_baseline_is_read_as_it_was_written(tmp_path):
    file = tmp_path / "baseline.json"
    assert Baseline.read(file) is None
    written = figure(1.5, 2.5, goal=3)
    write_baseline(file, {"cores": "2"}, [written])
    read = Baseline.read(file)
    assert read.machine == {"cores": "2"}
    assert read.figures == {"k": written}


def test_both_tables_have_every_row():
    table = rows([figure(1, key="a"), figure(2, key="b")], None)
    assert len(as_text(table).splitlines()) == 4
    assert len(as_markdown(table).splitlines()) == 4
