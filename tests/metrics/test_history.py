"""The history is bounded, and keeps failed sessions longest."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_records import TURNS, failed_session, session, turn

from exporter.metrics.history import History


def test_sessions_come_newest_first_across_targets():
    history = History()
    for place, target in enumerate("abab"):
        history.add(session(target=target, started=float(place)))
    assert [r.started_time for r in history.sessions()] == [3.0, 2.0, 1.0, 0.0]
    assert [r.started_time for r in history.sessions("a")] == [2.0, 0.0]
    assert [r.started_time for r in history.sessions(limit=2)] == [3.0, 2.0]


def test_a_clock_that_was_set_back_does_not_change_the_order_within_a_target():
    history = History()
    history.add(session(started=100.0))
    history.add(session(started=50.0))
    assert [r.started_time for r in history.sessions("local")] == [50.0, 100.0]


def test_an_unknown_target_has_no_sessions():
    assert History().sessions("nobody") == []


def test_a_failure_outlives_the_finished_sessions_after_it():
    history = History(capacity=5, failures=2)
    history.add(failed_session(started=0.0))
    for moment in range(1, 20):
        history.add(session(started=float(moment)))
    assert [r.started_time for r in history.sessions()] == [19.0, 18.0, 17.0, 16.0, 0.0]


def test_many_failures_do_not_push_out_what_comes_after_them():
    history = History(capacity=5, failures=2)
    for moment in range(10):
        history.add(failed_session(started=float(moment)))
    for moment in range(10, 20):
        history.add(session(started=float(moment)))
    assert [r.started_time for r in history.sessions()] == [19.0, 18.0, 17.0, 9.0, 8.0]


def test_each_target_has_a_limit_of_its_own():
    history = History(capacity=3, failures=1)
    history.add(session(target="quiet"))
    for _ in range(10):
        history.add(session(target="busy"))
    assert len(history.sessions("quiet")) == 1


def test_a_forgotten_target_is_gone():
    history = History()
    history.add(session())
    history.forget("local")
    history.forget("never there")
    assert history.sessions() == []


@pytest.mark.parametrize(("capacity", "failures"), [(0, 0), (5, 5), (5, -1)])
def test_a_history_without_room_for_finished_sessions_is_refused(capacity, failures):
    with pytest.raises(ValueError, match="cannot keep"):
        History(capacity, failures)


@given(
    outcomes=st.lists(st.booleans(), max_size=60),
    capacity=st.integers(2, 12),
    data=st.data(),
)
def test_the_bounds_hold_for_any_run_of_sessions(outcomes, capacity, data):
    failures = data.draw(st.integers(0, capacity - 1))
    history = History(capacity, failures)
    for moment, good in enumerate(outcomes):
        history.add((session if good else failed_session)(started=float(moment)))
        kept = history.sessions()
        assert len(kept) == min(moment + 1, capacity)
        assert kept[0].started_time == moment  # the newest is always there
    kept = history.sessions("local")
    failed = [float(m) for m, good in enumerate(outcomes) if not good]
    # The newest failures, as many as have places, are never dropped.
    assert set(failed[len(failed) - min(failures, len(failed)) :]) <= {r.started_time for r in kept}


def test_a_session_is_equal_after_unpacking():
    history = History()
    first, second = session(*TURNS, started=1.0), failed_session(started=2.0)
    history.add(first)
    history.add(second)
    assert history.sessions() == [second, first]
    assert history.latest("local") is second


def test_an_iterator_shows_the_sessions_of_its_start():
    history = History(capacity=2, failures=0)
    history.add(session(started=1.0))
    history.add(session(started=2.0))
    reading = history.each()
    history.add(session(started=3.0))
    history.forget("local")
    assert [each.started_time for each in reading] == [2.0, 1.0]
    assert history.sessions() == []
    assert history.latest("local") is None


def measured(started):
    """A session of eight turns that shares no object with another."""
    turns = [
        turn(
            index,
            2500,
            2400,
            2400,
            gaps=tuple(0.011 + (index + place) / 7e5 for place in range(31)),
        )
        for index in range(1, 9)
    ]
    return session(*turns, started=started)


def test_a_large_history_takes_a_fraction_of_what_its_objects_would():
    history = History(capacity=200, failures=0)
    tracemalloc.start()
    try:
        for moment in range(200):
            history.add(measured(float(moment)))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / 200 < 3000
