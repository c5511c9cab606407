"""Alerts about scenarios in rotation and about reuse rules, with the series that the real sink publishes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from publish_records import TURNS, UNSTABLE, failed_session, session, turn
from rule_course import SCRAPE_SECONDS, Course
from samples_page import publish

from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.failure import FailureReason
from exporter.model.session import LossCause, Notice

pytestmark = pytest.mark.promtool

A_MINUTE = 6  # scrapes


def in_turn(*kinds, minutes):
    """Sessions in rotation, one a minute, as the series that Prometheus would scrape."""
    metrics = Metrics()
    course = Course(metrics)
    metrics.add(TargetState("local"))
    for minute in range(minutes):
        publish(metrics, kinds[minute % len(kinds)])
        course.scrape(A_MINUTE)
    return course


def test_a_template_that_breaks_one_scenario_of_three_is_alerted(promtool, tmp_path):
    sound = [session(*TURNS[:2], scenario=name) for name in ("one", "two")]
    broken = session(TURNS[0], turn(2, 1250, 32, 32), scenario="broken", prefix=UNSTABLE)
    in_turn(*sound, broken, minutes=12).check(
        promtool, tmp_path, {170: (), 360: ["VllmPrefixUnstable"], 700: ["VllmPrefixUnstable"]}
    )


def test_a_scenario_that_always_fails_is_alerted_without_the_alert_about_the_probe(
    promtool, tmp_path
):
    sound = session(*TURNS[:2], scenario="short")
    too_long = failed_session(scenario="long", reason=FailureReason.PROMPT_TOO_LONG)
    in_turn(sound, too_long, too_long, too_long, too_long, minutes=12).check(
        promtool, tmp_path, {300: (), 500: ["VllmProbeScenarioFailing"]}
    )


def test_a_target_that_fails_is_alerted_for_any_scenario(promtool, tmp_path):
    sound = [session(*TURNS[:2], scenario=name) for name in ("one", "two")]
    failed = [failed_session(scenario=name) for name in ("one", "two")]
    in_turn(*sound, *failed * 5, minutes=12).check(
        promtool, tmp_path, {110: (), 400: ["VllmProbeFailing"]}
    )


# The engine's reuse rule gives up a third of the ideal.
BY_ITS_RULE = session(turn(1, 1000, 0, 0), turn(2, 1250, 656, 992, gives_up=336))
AND_EVICTED = session(
    turn(1, 1000, 0, 0), turn(2, 1250, 336, 992, gives_up=336, cause=LossCause.EVICTED)
)


def test_an_engine_that_loses_only_by_its_reuse_rule_raises_no_alert(promtool, tmp_path):
    in_turn(BY_ITS_RULE, minutes=120).check(promtool, tmp_path, {600: (), 3600: (), 7100: ()})


def test_a_loss_beside_what_the_reuse_rule_gives_up_is_alerted(promtool, tmp_path):
    in_turn(AND_EVICTED, minutes=20).check(
        promtool,
        tmp_path,
        {30: (), 1100: ["VllmCacheEfficiencyLow", "VllmProbeHitRatioLow"]},
    )


def test_a_cache_that_is_off_is_alerted_although_its_reuse_rule_is_unknown(promtool, tmp_path):
    off = session(
        turn(1, 1000, 0, 0),
        turn(2, 1250, 0, 992, gives_up=None, cause=LossCause.DISABLED),
        notices=frozenset({Notice.REUSE_RULE_UNKNOWN}),
    )
    in_turn(off, minutes=20).check(
        promtool, tmp_path, {1100: ["VllmCacheEfficiencyLow", "VllmProbeHitRatioLow"]}
    )


# A small cache: one full session, then a heartbeat every 100 s.
ALIVE = session(turn(1, 65, 0, 0), turn(2, 80, 32, 32), scenario="heartbeat")
DEAD = session(turn(1, 65, 0, 0), turn(2, 80, 0, 48, cause=LossCause.WEDGED), scenario="heartbeat")
HEARTBEAT_SECONDS = 100


def on_a_small_cache(*heartbeats):
    metrics = Metrics()
    course = Course(metrics)
    metrics.add(TargetState("local"))
    for record in (session(*TURNS[:2]), *(replace(each, heartbeat=True) for each in heartbeats)):
        publish(metrics, record)
        course.scrape(HEARTBEAT_SECONDS // SCRAPE_SECONDS)
    return course


def test_a_wedge_that_only_heartbeats_show_is_alerted_within_four_minutes(promtool, tmp_path):
    died = 20 * HEARTBEAT_SECONDS + 1  # right after a heartbeat that hit
    on_a_small_cache(*[ALIVE] * 20, *[DEAD] * 5).check(
        promtool,
        tmp_path,
        {died: (), died + 240: ["VllmCacheWedged", "VllmProbeHitRatioLow"]},
    )


def test_heartbeats_that_hit_raise_no_alert_while_full_sessions_are_rare(promtool, tmp_path):
    on_a_small_cache(*[ALIVE] * 36).check(promtool, tmp_path, {600: (), 1800: (), 3600: ()})


@pytest.mark.parametrize(
    "bad",
    [
        session(turn(1, 65, 0, 0), turn(2, 80, 0, 48), scenario="heartbeat"),
        failed_session(scenario="heartbeat"),
        failed_session(scenario="heartbeat", reason=FailureReason.PROMPT_TOO_LONG),
    ],
    ids=["missed", "target failed", "heartbeat failed"],
)
def test_a_bad_heartbeat_raises_no_alert_once_frequent_sessions_finish_again(
    promtool, tmp_path, bad
):
    sound = session(*TURNS[:2])
    bad = replace(bad, heartbeat=True)
    in_turn(sound, bad, *[sound] * 18, minutes=20).check(
        promtool, tmp_path, {100: (), 400: (), 700: (), 1150: ()}
    )
