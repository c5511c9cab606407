"""What the probe leaves in the cache, and what users do meanwhile."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_views import engine, load_policy
from publish_records import engine_view

from exporter.analysis.footprint import (
    HOUR,
    Footprint,
    LastHour,
    UsersTraffic,
    written_tokens,
)
from exporter.analysis.load import SharedBudget, Work, budget_pause, burst_pause, users_pause
from exporter.analysis.own_share import OwnShare
from exporter.model.probe import PauseReason

CACHE = replace(engine_view().snapshot.cache, block_size=16, prefix_caching=True)


@pytest.mark.parametrize(
    ("prompt", "cached", "answer", "written"),
    [(24, 0, 1, 32), (40, 16, 1, 32), (64, 48, 0, 16), (33, None, 0, 48), (0, 0, 0, 0)],
)
def test_written_are_the_new_tokens_in_whole_blocks(prompt, cached, answer, written):
    assert written_tokens(prompt, cached, answer, CACHE) == written


def test_an_engine_without_prefix_caching_keeps_nothing():
    assert written_tokens(500, 0, 5, replace(CACHE, prefix_caching=False)) == 0


def test_without_a_known_block_the_tokens_themselves_count():
    assert written_tokens(33, 0, 1, None) == 34


@given(st.lists(st.tuples(st.floats(0, 3 * HOUR), st.integers(0, 10_000)), max_size=60))
def test_the_last_hour_is_the_sum_of_what_came_within_it(amounts):
    amounts = sorted(amounts)
    hour = LastHour()
    for at, tokens in amounts:
        hour = hour.plus(tokens, at)
    now = amounts[-1][0] if amounts else 0.0
    assert hour.total(now) == sum(tokens for at, tokens in amounts if at > now - HOUR)
    assert hour.total(now + HOUR + 1) == 0


def test_the_turnover_needs_a_capacity():
    assert Footprint(8_000, 80_000, 8_000.0).turnover == 0.1
    assert Footprint(8_000, 80_000, 8_000.0).limit_ratio == 0.1
    assert Footprint(8_000, None).turnover is None
    assert Footprint(8_000, 80_000).limit_ratio is None


def test_heartbeats_wait_only_for_their_own_share_and_sessions_for_everything():
    budget = SharedBudget().spend(Work.SESSION, 4_000, 0.0, 8_000)
    assert budget.seconds_left(Work.HEARTBEAT, 0.0) == 0
    assert budget.seconds_left(Work.SESSION, 0.0) == 1800
    budget = budget.spend(Work.HEARTBEAT, 70, 0.0, 8_000)
    assert budget.seconds_left(Work.HEARTBEAT, 0.0) == pytest.approx(36.0)
    assert budget.seconds_left(Work.OTHER, 0.0) == pytest.approx(1831.5)


@given(
    st.floats(1_000, 200_000),
    st.integers(1, 3_000),
    st.integers(1, 20_000),
    st.floats(10.0, 200.0),
)
def test_no_hour_holds_more_than_the_limit_and_one_of_each(per_hour, beat, session, every):
    """Whatever heartbeats and sessions cost, and however often they are due."""
    budget, now, sent = SharedBudget(), 0.0, []
    while now < 3 * HOUR:
        for work, tokens in ((Work.HEARTBEAT, beat), (Work.SESSION, session)):
            if budget.seconds_left(work, now) == 0:
                budget = budget.spend(work, tokens, now, per_hour)
                sent.append((now, tokens))
        now += every
    for begin, _ in sent:
        hour = sum(tokens for at, tokens in sent if begin <= at < begin + HOUR)
        assert hour <= per_hour + beat + session + 1


def test_the_longer_of_two_budgets_names_the_pause():
    tokens = SharedBudget().spend(Work.SESSION, 100, 0.0, 3_600)
    footprint = SharedBudget().spend(Work.SESSION, 200, 0.0, 3_600)
    assert budget_pause(tokens, footprint, Work.SESSION, 0.0).reason is PauseReason.FOOTPRINT
    assert budget_pause(footprint, tokens, Work.SESSION, 0.0).reason is PauseReason.BUDGET
    assert budget_pause(tokens, footprint, Work.HEARTBEAT, 0.0) is None
    assert budget_pause(tokens, footprint, Work.SESSION, 500.0) is None


@given(
    st.lists(st.tuples(st.floats(0, 2 * HOUR), st.integers(1, 3_000)), max_size=40),
    st.integers(0, 3_000),
    st.floats(100, 10_000),
)
def test_after_the_wait_a_window_has_room_or_nothing_else(amounts, amount, limit):
    last = LastHour()
    for at, tokens in sorted(amounts):
        last = last.plus(tokens, at)
    now = max((at for at, _ in amounts), default=0.0)
    wait = last.seconds_until_room(amount, limit, 900.0, now)
    then = last.total(now + wait + 1e-6, 900.0)
    assert then + amount <= limit or then == 0
    if wait > 1:
        assert last.total(now + wait - 1, 900.0) + amount > limit, "it waits no longer than needed"


def written(*amounts):
    last = LastHour()
    for at, tokens in amounts:
        last = last.plus(tokens, at)
    return last


def test_a_quarter_of_an_hour_gets_three_tenths_of_what_an_hour_may():
    beats, others = written((0.0, 400)), written((100.0, 800), (200.0, 600))
    assert burst_pause(beats, others, 600, 8_000, 300.0) is None
    pause = burst_pause(beats, others, 601, 8_000, 300.0)
    assert (pause.reason, pause.seconds) == (PauseReason.FOOTPRINT, 700.0)
    assert burst_pause(beats, others, 601, 8_000, 901.0) is None, "a heartbeat has left the window"
    assert burst_pause(beats, others, 601, 0.0, 300.0) is None, "no limit"


def test_work_that_never_fits_waits_only_for_its_own_kind():
    beats, others = written((250.0, 400)), written((100.0, 10))
    assert burst_pause(beats, others, 50_000, 8_000, 300.0).seconds == 700.0
    assert burst_pause(beats, LastHour(), 50_000, 8_000, 300.0) is None


def seen(*readings, own=OwnShare()):  # noqa: B008 - frozen
    """Traffic after readings of (time, prompt tokens of all, saved tokens of all, running)."""
    traffic = UsersTraffic()
    for at, prompts, saved, running in readings:
        view = engine()
        totals = replace(
            view.totals, prompt_tokens=prompts, saved_tokens=saved, queried_tokens=prompts
        )
        snapshot = replace(view.snapshot, requests_running=running)
        traffic = traffic.after(replace(view, totals=totals, snapshot=snapshot), own, at)
    return traffic


QUIET = load_policy().model_copy(
    update={"quiet_after_seconds": 3600.0, "max_prefill_share_ratio": 0.01}
)


def test_an_engine_without_users_for_long_is_left_quiet():
    traffic = seen(*((60.0 * n, 1000.0, 500.0, 0.0) for n in range(61)))
    assert users_pause(traffic, QUIET, 0, 3599.0) is None
    assert users_pause(traffic, QUIET, 0, 3600.0).reason is PauseReason.QUIET


def test_one_request_of_a_user_ends_the_quiet():
    traffic = seen((0.0, 1000.0, 500.0, 0.0), (3600.0, 1001.0, 500.0, 0.0))
    assert users_pause(traffic, QUIET, 0, 3600.0) is None


def test_a_request_that_runs_is_a_user_even_before_it_is_counted():
    traffic = seen((0.0, 1000.0, 500.0, 0.0), (3600.0, 1000.0, 500.0, 1.0))
    assert users_pause(traffic, QUIET, 0, 3600.0) is None


def test_the_exporters_own_requests_are_no_users():
    traffic = seen((0.0, 1000.0, 0.0, 0.0))
    own = OwnShare(prompt_tokens=500, hit_tokens=0, last_ended_at=10.0)
    view = engine()
    totals = replace(view.totals, prompt_tokens=1500.0, saved_tokens=0.0)
    snapshot = replace(view.snapshot, requests_running=0.0)
    traffic = traffic.after(replace(view, totals=totals, snapshot=snapshot), own, 3600.0)
    assert users_pause(traffic, QUIET, 0, 3600.0).reason is PauseReason.QUIET


def test_an_engine_that_counts_nothing_is_not_quiet():
    assert users_pause(seen((0.0, None, None, 0.0)), QUIET, 0, 1e6) is None


def busy(users_per_minute, running=1.0):
    readings = [(60.0 * n, users_per_minute * n, 0.0, running) for n in range(60)]
    return seen(*readings)


def test_while_users_are_busy_no_session_takes_more_than_its_share():
    traffic = busy(1_000.0)  # 59,000 tokens for users within the hour
    assert users_pause(traffic, QUIET, 590, 3540.0) is None
    assert users_pause(traffic, QUIET, 600, 3540.0).reason is PauseReason.SHARE


def test_an_engine_that_is_idle_most_of_the_time_is_not_busy():
    assert users_pause(busy(1_000.0, running=0.0), QUIET, 600, 3540.0) is None


def test_a_day_of_users_takes_the_room_of_a_few_readings():
    traffic = seen(*((60.0 * n, 1_000.0 * n, 0.0, 1.0) for n in range(1440)))
    assert len(traffic.readings) <= 25
    assert traffic.readings[0].at <= 86_340 - 3600 + 300
    assert [one.at for one in traffic.readings[-10:]] == [60.0 * n for n in range(1430, 1440)]
    # Of the last hour, as with all readings: 55,000 tokens or more were users'.
    assert users_pause(traffic, QUIET, 540, 86_340.0) is None
    assert users_pause(traffic, QUIET, 610, 86_340.0).reason is PauseReason.SHARE
