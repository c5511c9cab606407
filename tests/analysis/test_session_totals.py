"""Sums over a session: exact where everything is known, unknown where anything is not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from publish_records import TURNS, turn

from exporter.analysis.session_totals import session_totals
from exporter.model.session import Control, ControlOutcome, LossCause


@st.composite
def sessions(draw):
    """Turns as cache_math makes them: cached <= ideal < prompt; the first is cold."""
    turns = [turn(1, draw(st.integers(1, 5000)), 0, 0)]
    for index in range(2, draw(st.integers(2, 9))):
        prompt = draw(st.integers(1, 5000))
        ideal = draw(st.integers(0, prompt - 1))
        cause = draw(st.sampled_from(LossCause))
        turns.append(turn(index, prompt, draw(st.integers(0, ideal)), ideal, cause=cause))
    return turns


@given(sessions())
def test_the_sums_are_those_of_the_turns(turns):
    totals = session_totals(turns)
    assert totals.prompt_tokens == sum(one.prompt_tokens for one in turns)
    assert totals.cached_tokens == sum(one.cached_tokens for one in turns)
    assert totals.hit_ratio == totals.cached_tokens / totals.prompt_tokens
    if len(turns) > 1:
        assert sum(totals.lost_by.values()) == totals.lost_tokens
        assert totals.lost_tokens == totals.ideal_tokens - totals.cached_tokens
        assert sorted(n for where in totals.lost_in.values() for n in where) == [
            one.index for one in turns if one.loss
        ]


@given(sessions(), st.data())
def test_a_single_turn_that_is_unknown_leaves_no_ratio_of_the_session(turns, data):
    where = data.draw(st.integers(0, len(turns) - 1))
    hole = turns[where]
    turns[where] = turn(hole.index, hole.prompt_tokens, None, None)
    totals = session_totals(turns)
    assert totals.hit_ratio is None
    if where > 0:
        assert totals.efficiency_ratio is None


def test_efficiency_is_cached_of_attainable_after_the_first_turn():
    totals = session_totals(TURNS)
    assert totals.efficiency_ratio == (992 + 1024) / (992 + 1280)
    assert totals.lost_by == {LossCause.UNEXPLAINED: 256}
    assert totals.lost_in == {LossCause.UNEXPLAINED: (3,)}


def test_without_an_ideal_there_is_no_efficiency():
    assert session_totals([turn(1, 20, 0, 0), turn(2, 30, 0, 0)]).efficiency_ratio is None
    assert session_totals([turn(1, 20, 0, 0)]).efficiency_ratio is None
    assert session_totals([]).hit_ratio is None


def test_only_cold_controls_show_what_was_saved():
    cold = Control(ControlOutcome.COLD, True, 1250, 32, 0.5)
    warm = Control(ControlOutcome.NOT_COLD, True, 1250, 32, 9.0)
    turns = [TURNS[0], replace(TURNS[1], control=cold), replace(TURNS[2], control=warm)]
    assert session_totals(turns).ttft_saved_seconds == (0.5 - 0.0625,)
    assert session_totals(TURNS).ttft_saved_seconds == ()


def test_a_turn_without_cached_tokens_saved_no_time():
    cold = Control(ControlOutcome.COLD, True, 1250, 32, 0.5)
    missed = replace(turn(2, 1250, 0, 992), control=cold)
    assert missed.ttft_saved_seconds is None
    assert session_totals([TURNS[0], missed]).ttft_saved_seconds == ()
