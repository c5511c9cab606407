"""vLLM's counters, added up over restarts."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from engine_pages import read, vllm_page
from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.metrics.totals import (
    FASTEST_START_SECONDS,
    EngineHistory,
    alternates,
    came_back,
    carry,
)
from exporter.model.engine import EngineSnapshot, EngineTotals

EMPTY = EngineHistory()


def snapshot(started: float | None = 100.0, **counters: float | None) -> EngineSnapshot:
    """A snapshot of a page without any family, with these counters put in."""
    return replace(read(vllm_page(started=started, queried=None, hit=None)), at=0.0, **counters)


def after(*snapshots: EngineSnapshot) -> EngineHistory:
    return reduce(carry, snapshots, EMPTY)


def test_before_the_first_snapshot_every_total_is_unknown():
    assert EMPTY.totals() == EngineTotals()


def test_totals_start_at_the_engines_own_values_and_follow_them():
    history = after(snapshot(queried_tokens=500.0, hit_tokens=300.0))
    assert history.totals() == EngineTotals(
        queried_tokens=500.0, hit_tokens=300.0, saved_tokens=300.0
    )
    history = carry(history, snapshot(queried_tokens=700.0, hit_tokens=450.0, preemptions=1.0))
    assert history.totals() == EngineTotals(
        queried_tokens=700.0, hit_tokens=450.0, saved_tokens=450.0, preemptions=1.0
    )
    assert history.restarts == 0


def test_a_counter_never_falls_when_the_engine_restarts():
    history = after(
        snapshot(started=100.0, queried_tokens=500.0, hit_tokens=300.0),
        snapshot(started=200.0, queried_tokens=20.0, hit_tokens=0.0),
    )
    assert history.totals().queried_tokens == 520.0
    assert history.totals().hit_tokens == 300.0
    assert history.restarts == 1


def test_a_restart_is_seen_even_when_the_new_counter_has_overtaken_the_old():
    history = after(
        snapshot(started=100.0, queried_tokens=500.0),
        snapshot(started=200.0, queried_tokens=600.0),
    )
    assert history.totals().queried_tokens == 1100.0
    assert history.restarts == 1


def test_without_a_start_time_a_counter_that_fell_shows_a_restart():
    history = after(
        snapshot(started=None, queried_tokens=500.0, prompt_tokens=500.0, preemptions=2.0),
        snapshot(started=None, queried_tokens=40.0, prompt_tokens=600.0, preemptions=2.0),
    )
    assert history.totals().queried_tokens == 540.0
    assert history.totals().prompt_tokens == 1100.0
    assert history.totals().preemptions == 4.0
    assert history.restarts == 1


def test_new_counters_within_a_process_are_carried_but_are_no_restart():
    history = after(
        snapshot(started=100.0, queried_tokens=500.0, prompt_tokens=500.0),
        snapshot(started=100.0, queried_tokens=40.0, prompt_tokens=40.0),
    )
    assert history.totals().queried_tokens == 540.0
    assert history.restarts == 0


def test_a_family_that_vanishes_keeps_its_total_and_goes_on_from_it():
    gone = after(
        snapshot(queried_tokens=500.0, preemptions=3.0),
        snapshot(queried_tokens=600.0, preemptions=None),
    )
    assert gone.totals().preemptions == 3.0
    assert carry(gone, snapshot(queried_tokens=600.0, preemptions=4.0)).totals().preemptions == 4.0


def test_a_family_that_is_missing_right_after_a_restart_is_added_once_it_comes():
    history = after(
        snapshot(started=100.0, preemptions=3.0),
        snapshot(started=200.0, preemptions=None),
        snapshot(started=200.0, preemptions=2.0),
        snapshot(started=300.0, preemptions=None),
        snapshot(started=400.0, preemptions=1.0),
    )
    assert history.totals().preemptions == 6.0
    assert history.restarts == 3


def test_a_start_time_seen_late_is_not_a_second_restart():
    history = after(
        snapshot(started=100.0, queried_tokens=500.0),
        snapshot(started=None, queried_tokens=40.0),
        snapshot(started=200.0, queried_tokens=50.0),
    )
    assert history.totals().queried_tokens == 550.0
    assert history.restarts == 1


def test_a_start_time_missing_once_is_not_a_restart():
    history = after(
        snapshot(started=100.0, queried_tokens=500.0),
        snapshot(started=None, queried_tokens=510.0),
        snapshot(started=100.0, queried_tokens=520.0),
    )
    assert history.totals().queried_tokens == 520.0
    assert history.restarts == 0


# Tokens saved


def test_saved_tokens_are_those_that_the_engine_counts_as_from_its_own_cache():
    """What an external cache supplied is not among them: it was moved."""
    history = after(
        snapshot(hit_tokens=300.0, local_cached_tokens=340.0, cached_prompt_tokens=900.0)
    )
    assert history.totals().saved_tokens == 340.0


def test_saved_tokens_are_the_hits_of_an_older_engine():
    assert after(snapshot(hit_tokens=300.0)).totals().saved_tokens == 300.0


def test_an_upgrade_at_a_restart_changes_the_source_of_saved_tokens():
    history = after(
        snapshot(started=100.0, hit_tokens=300.0),
        snapshot(started=200.0, hit_tokens=350.0, local_cached_tokens=360.0),
        snapshot(started=200.0, hit_tokens=400.0, local_cached_tokens=420.0),
    )
    assert history.totals().saved_tokens == 720.0
    assert history.totals().hit_tokens == 700.0


def test_a_downgrade_at_a_restart_changes_the_source_of_saved_tokens_back():
    history = after(
        snapshot(started=100.0, hit_tokens=300.0, local_cached_tokens=340.0),
        snapshot(started=200.0, hit_tokens=10.0),
    )
    assert history.totals().saved_tokens == 350.0


def test_the_source_of_saved_tokens_does_not_change_while_a_process_lives():
    gone = after(
        snapshot(hit_tokens=300.0, local_cached_tokens=340.0),
        snapshot(hit_tokens=500.0, local_cached_tokens=None),
    )
    assert gone.totals().saved_tokens == 340.0
    assert gone.restarts == 0
    late = after(
        snapshot(hit_tokens=300.0, local_cached_tokens=None),
        snapshot(hit_tokens=310.0, local_cached_tokens=340.0),
    )
    assert late.totals().saved_tokens == 310.0


# Several engines behind one URL


def test_a_process_that_comes_back_after_another_is_not_one_engine():
    first, second = snapshot(started=100.0), snapshot(started=200.0)
    assert not came_back(EMPTY, first)
    assert not came_back(after(first), first)
    assert not came_back(after(first), second)
    assert not came_back(after(first, second), second)
    assert came_back(after(first, second), first)


def test_a_process_without_a_start_time_is_never_said_to_come_back():
    history = after(snapshot(started=100.0), snapshot(started=200.0))
    assert not came_back(history, snapshot(started=None))


def test_the_start_times_that_are_kept_are_bounded():
    history = after(*(snapshot(started=float(n)) for n in range(1000)))
    assert len(history.earlier_starts) < 100
    assert history.restarts == 999


# Whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["work", "restart", "hidden", "quiet restart"]), st.integers(0, 1000)
    ),
    max_size=30,
)


@given(STEPS)
def test_totals_equal_all_that_was_ever_counted_before_a_reading(steps: list[tuple[str, int]]):
    """An engine works, restarts, and now and then shows no counter; nothing read is lost.

    The restarts carry their start time here, so the total must be exact.
    """
    started, counter, ended = 1.0, 0.0, 0.0
    last_read = 0.0
    history = carry(EMPTY, snapshot(started=started, queried_tokens=0.0))
    previous = 0.0
    for what, tokens in steps:
        if "restart" in what:
            ended, started, counter, last_read = ended + last_read, started + 1, 0.0, 0.0
        counter += tokens
        visible = "hidden" not in what and "quiet" not in what
        if visible:
            last_read = counter
        history = carry(
            history, snapshot(started=started, queried_tokens=counter if visible else None)
        )
        total = history.totals().queried_tokens
        assert total == ended + last_read
        assert total >= previous
        previous = total


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_totals_never_fall_for_any_counters_on_a_page(values: list[tuple[int, int]]):
    history, before = EMPTY, (0.0, 0.0)
    for queried, hit in values:
        history = carry(history, snapshot(started=None, queried_tokens=queried, hit_tokens=hit))
        totals = history.totals()
        assert totals.queried_tokens is not None
        assert totals.hit_tokens is not None
        now = (totals.queried_tokens, totals.hit_tokens)
        assert now[0] >= before[0]
        assert now[1] >= before[1]
        before = now


@given(
    values=st.lists(st.floats(0, 1e6), min_size=1, max_size=12),
    seconds=st.floats(FASTEST_START_SECONDS, 1e5),
)
def test_falls_that_leave_time_to_start_an_engine_are_restarts(values, seconds):
    history = EMPTY
    for number, value in enumerate(values):
        one = replace(snapshot(started=None, queried_tokens=value), at=number * seconds)
        assert not alternates(history, one)
        history = carry(history, one)
