"""The limits that a pipeline sets for a session."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from publish_records import TURNS, session, turn

from exporter.analysis.session_totals import session_totals
from exporter.wording.limits import shortfalls


def missed(result, *, efficiency=None, hit=None):
    return shortfalls(result, efficiency_ratio=efficiency, hit_ratio=hit)


def test_without_limits_nothing_is_missed():
    assert missed(session(turn(1, None, None, None))) == []


@given(least=st.floats(0, 1))
def test_a_limit_is_reached_only_by_a_ratio_that_is_not_below_it(least):
    totals = session_totals(TURNS)
    found = missed(session(*TURNS), efficiency=least, hit=least)
    below = (totals.efficiency_ratio < least) + (totals.hit_ratio < least)
    assert len(found) == below


def test_reaching_the_limit_itself_is_enough():
    totals = session_totals(TURNS)
    limits = {"efficiency": totals.efficiency_ratio, "hit": totals.hit_ratio}
    assert missed(session(*TURNS), **limits) == []


def test_a_shortfall_names_the_ratio_and_the_limit():
    assert missed(session(*TURNS), efficiency=0.95) == [
        "The session's efficiency of 88.7 % is below --fail-under-efficiency 0.95."
    ]


def test_an_unknown_ratio_reaches_no_limit_not_even_0():
    unknown = session(TURNS[0], turn(2, 1250, None, None))
    assert missed(unknown, efficiency=0.0, hit=0.0) == [
        "The session's efficiency is unknown, so it does not reach --fail-under-efficiency 0.",
        "The session's hit ratio is unknown, so it does not reach --fail-under-hit-ratio 0.",
    ]
