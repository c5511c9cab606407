"""What a pipeline may demand of a session."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from publish_records import TURNS, session, turn

from exporter.analysis.session_totals import session_totals
from exporter.wording.limits import Limits, shortfalls


def test_nothing_demanded_is_always_met():
    assert shortfalls(session(turn(1, None, None, None)), Limits()) == []


@given(least=st.floats(0, 1))
def test_a_demand_is_met_exactly_where_the_figure_reaches_it(least):
    totals = session_totals(TURNS)
    found = shortfalls(session(*TURNS), Limits(efficiency_ratio=least, hit_ratio=least))
    missed = (totals.efficiency_ratio < least) + (totals.hit_ratio < least)
    assert len(found) == missed


def test_reaching_the_limit_itself_is_enough():
    totals = session_totals(TURNS)
    limits = Limits(totals.efficiency_ratio, totals.hit_ratio)
    assert shortfalls(session(*TURNS), limits) == []


def test_a_shortfall_names_the_figure_and_the_demand():
    assert shortfalls(session(*TURNS), Limits(efficiency_ratio=0.95)) == [
        "The session's efficiency of 88.7 % is below --fail-under-efficiency 0.95."
    ]


def test_a_figure_that_is_not_known_meets_no_demand_not_even_0():
    unknown = session(TURNS[0], turn(2, 1250, None, None))
    assert shortfalls(unknown, Limits(0.0, 0.0)) == [
        "The session's efficiency is unknown, so it does not reach --fail-under-efficiency 0.",
        "The session's hit ratio is unknown, so it does not reach --fail-under-hit-ratio 0.",
    ]
