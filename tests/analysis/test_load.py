"""When the probe may start: the budget's arithmetic and what makes an engine too busy."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_views import engine, load_policy
from publish_records import failed_engine_view, failed_session, session, turn

from exporter.analysis.load import (
    UNKNOWN_TURN_TOKENS,
    Pause,
    SharedBudget,
    Standstill,
    TokenBudget,
    Work,
    budget_pause,
    busy_pause,
    session_tokens,
)
from exporter.model.failure import FailureReason
from exporter.model.probe import PauseReason
from exporter.model.session import Control, ControlOutcome

NO_BUDGET = SharedBudget()


def session_pause(budget, now):
    """The pause of a session under this budget alone."""
    return budget_pause(SharedBudget(budget), NO_BUDGET, Work.SESSION, now)


POLICY = load_policy(10_000, waiting=2, usage=0.9)


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (engine(waiting=2.0), None),
        (engine(waiting=3.0), PauseReason.QUEUE),
        (engine(usage=0.9), None),
        (engine(usage=0.91), PauseReason.USAGE),
        (engine(waiting=3.0, usage=0.91), PauseReason.QUEUE),
        (engine(waiting=None, usage=None), None),
        (engine(asleep=True), PauseReason.ASLEEP),
        (engine(waiting=3.0, asleep=True), PauseReason.ASLEEP),
        (engine(asleep=False), None),
        (failed_engine_view(), None),
        (None, None),
    ],
)
def test_a_busy_engine_pauses_the_probe_and_an_unknown_one_does_not(view, reason):
    pause = busy_pause(view, POLICY)
    assert (pause and pause.reason) == reason


BUSY = Pause(PauseReason.QUEUE, 5.0)


def stood(*looks):
    """The standstill after looks at these times at an engine that has generated so much."""
    standstill = Standstill()
    for at, generated, pause in looks:
        standstill = standstill.after(engine(generated=generated), pause, at)
    return standstill


def test_a_standstill_begins_at_the_first_busy_reading_with_the_same_counters():
    standstill = stood((0.0, 5.0, BUSY), (10.0, 6.0, BUSY), (30.0, 6.0, BUSY), (69.0, 6.0, BUSY))
    assert not standstill.lasts(69.9)
    assert standstill.lasts(70.0)


@pytest.mark.parametrize("pause", [None, Pause(PauseReason.ASLEEP, 5.0)])
def test_a_reading_of_an_engine_that_is_not_busy_ends_a_standstill(pause):
    standstill = stood((0.0, 5.0, BUSY), (50.0, 5.0, pause), (60.0, 5.0, BUSY))
    assert not standstill.lasts(119.0)
    assert standstill.lasts(120.0)


def test_an_engine_that_cannot_be_read_does_not_stand_still():
    standstill = stood((0.0, 5.0, BUSY)).after(failed_engine_view(), None, 50.0)
    assert not standstill.lasts(1e9)


def test_spent_tokens_take_their_share_of_an_hour():
    budget = TokenBudget().spend(2_500, now=100.0, tokens_per_hour=10_000)
    pause = session_pause(budget, 400.0)
    assert (pause.reason, pause.seconds) == (PauseReason.BUDGET, 600.0)
    assert session_pause(budget, 1000.0) is None


def test_without_a_limit_there_is_no_wait():
    assert session_pause(TokenBudget().spend(10**9, now=0.0, tokens_per_hour=0), 0.0) is None


def test_tokens_spent_during_a_wait_make_it_longer():
    budget = TokenBudget().spend(2_500, 0.0, 10_000).spend(2_500, 0.0, 10_000)
    assert budget.free_at == 1800.0


@pytest.mark.parametrize(
    ("tokens_per_hour", "seconds"), [(20_000, 900.0), (5_000, 3600.0), (10_000, 1800.0), (0, None)]
)
def test_a_new_budget_changes_the_wait_for_the_same_tokens(tokens_per_hour, seconds):
    budget = (
        TokenBudget()
        .spend(6_000, 0.0, 10_000)
        .under_limit(360.0, before=10_000, tokens_per_hour=tokens_per_hour)
    )
    pause = session_pause(budget, 360.0)
    assert (pause and pause.seconds) == (None if seconds is None else pytest.approx(seconds))


def test_tokens_spent_without_a_limit_cause_no_wait_under_a_new_limit():
    budget = TokenBudget().spend(10**9, 0.0, 0).under_limit(1.0, before=0, tokens_per_hour=10)
    assert session_pause(budget, 1.0) is None


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0, 10**5))
def test_a_budget_there_and_back_changes_nothing(tokens, one, other, now):
    budget = TokenBudget().spend(tokens, 0.0, one)
    back = budget.under_limit(now, before=one, tokens_per_hour=other).under_limit(
        now, before=other, tokens_per_hour=one
    )
    owed, was = session_pause(back, now), session_pause(budget, now)
    assert (owed.seconds if owed else 0.0) == pytest.approx(was.seconds if was else 0.0, abs=1e-5)


@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.floats(0, 900)), min_size=1, max_size=200),
    st.integers(1_000, 200_000),
)
def test_no_hour_holds_more_than_the_budget_and_one_session(costs_and_lengths, budget):
    """Each session's tokens are taken as spent evenly over its length, back to back at best."""
    now, spent, spans = 0.0, TokenBudget(), []
    for cost, length in costs_and_lengths:
        pause = session_pause(spent, now)
        now += pause.seconds if pause else 0.0
        spans.append((now, now + length, cost))
        now += length
        spent = spent.spend(cost, now, budget)
    for begin in [edge for start, end, _ in spans for edge in (start, end, end - 3600)]:
        within = [span for span in spans if span[0] < begin + 3600 and span[1] >= begin]
        used = sum(cost * _share(start, end, begin) for start, end, cost in within)
        assert used <= budget + max((cost for _, _, cost in within), default=0) + 1e-6 * budget


def _share(start, end, begin):
    if end == start:
        return float(begin <= start < begin + 3600)
    return max(0.0, min(end, begin + 3600) - max(start, begin)) / (end - start)


def test_a_session_is_charged_its_turns_its_controls_and_its_other_requests():
    control = Control(ControlOutcome.COLD, False, 1250, 30, 0.5)
    turns = (turn(1, 1000, 0, 0), replace(turn(2, 1250, 992, 992), control=control))
    assert session_tokens(session(*turns, extra_tokens=7)) == 1032 + 1282 + 1280 + 7


def test_unknown_tokens_are_charged_by_an_estimate_and_not_as_zero():
    unknown = turn(1, None, None, None, completion=None)
    assert session_tokens(session(unknown)) == UNKNOWN_TURN_TOKENS
    failed = Control(ControlOutcome.FAILED, False, None, None, None)
    with_control = replace(turn(2, 1250, 992, 992), control=failed)
    assert session_tokens(session(with_control)) == 1282 + 1250


@pytest.mark.parametrize(
    ("reason", "charge"),
    [(FailureReason.STALLED, 2 * 1032), (FailureReason.CONNECTION_REFUSED, 1032)],
)
def test_a_turn_that_failed_is_charged_if_the_engine_may_have_seen_it(reason, charge):
    assert session_tokens(failed_session(turn(1, 1000, 0, 0), reason=reason)) == charge


def test_a_first_turn_that_failed_is_charged_by_an_estimate():
    assert session_tokens(failed_session(reason=FailureReason.STALLED)) == UNKNOWN_TURN_TOKENS
    assert session_tokens(failed_session()) == 0
