"""Several scenarios in turn: the values of each stay until its own next session."""

from __future__ import annotations

import pytest
from publish_records import TURNS, UNSTABLE, failed_session, measured, session, turn
from samples_page import Page, publish

from exporter.model.failure import FailureReason
from exporter.model.session import Notice

LONG, SHORT = "long-agent", "short-agent"
OF_ONE_SCENARIO = (
    FailureReason.PROMPT_TOO_LONG,
    FailureReason.BAD_REQUEST,
    FailureReason.TURN_TIMEOUT,
    FailureReason.NO_DESCRIPTORS,
    FailureReason.INTERNAL,
)


def scenarios(metrics, family="vllm_probe_turn_hit_ratio"):
    return {dict(labels)["scenario"] for labels in Page(metrics).series(family)}


def test_the_values_of_a_scenario_stand_while_others_are_played(metrics):
    publish(metrics, session(*TURNS, scenario=LONG, prefix=UNSTABLE))
    for _ in range(3):
        publish(metrics, session(*TURNS[:2], scenario=SHORT))
    page = Page(metrics)
    assert page.value("vllm_probe_prefix_stable", scenario=LONG) == 0
    assert page.value("vllm_probe_prefix_stable", scenario=SHORT) == 1
    assert page.value("vllm_probe_turn_hit_ratio", scenario=LONG, turn="3") == 1024 / 1500
    assert page.value("vllm_probe_turn_hit_ratio", scenario=SHORT, turn="2") == 992 / 1250
    assert page.value("vllm_probe_turn_hit_ratio", scenario=SHORT, turn="3") is None


def test_the_next_session_of_a_scenario_takes_the_place_of_its_last_one(metrics):
    publish(metrics, session(*TURNS, scenario=LONG, prefix=UNSTABLE))
    publish(metrics, session(*TURNS, scenario=SHORT))
    publish(metrics, session(turn(1, 900, 0, 0), scenario=LONG))
    page = Page(metrics)
    assert page.value("vllm_probe_prefix_stable", scenario=LONG) == 1
    assert page.value("vllm_probe_turn_prompt_tokens", scenario=LONG, turn="1") == 900
    assert page.value("vllm_probe_turn_prompt_tokens", scenario=LONG, turn="3") is None
    assert page.value("vllm_probe_turn_prompt_tokens", scenario=SHORT, turn="3") == 1500


@pytest.mark.parametrize("reason", OF_ONE_SCENARIO)
def test_a_session_that_fails_for_its_own_reason_takes_away_the_values_of_its_scenario_alone(
    metrics, reason
):
    for each in (LONG, SHORT):
        publish(metrics, session(*TURNS, scenario=each))
    publish(metrics, failed_session(*TURNS[:2], scenario=LONG, reason=reason))
    assert scenarios(metrics) == {SHORT}
    page = Page(metrics)
    assert page.value("vllm_probe_up") == 0
    assert page.value("vllm_probe_scenario_up", scenario=LONG) == 0
    assert page.value("vllm_probe_scenario_up", scenario=SHORT) == 1


@pytest.mark.parametrize("reason", [r for r in FailureReason if r not in OF_ONE_SCENARIO])
def test_a_target_that_fails_loses_the_values_of_all_its_scenarios(metrics, reason):
    for each in (LONG, SHORT):
        publish(metrics, session(*TURNS, scenario=each))
    publish(metrics, failed_session(scenario=LONG, reason=reason))
    assert scenarios(metrics) == set()
    assert scenarios(metrics, "vllm_probe_prefix_stable") == set()
    page = Page(metrics)
    assert page.value("vllm_probe_cache_wedged") is None
    assert page.value("vllm_probe_scenario_up", scenario=LONG) == 0
    assert page.value("vllm_probe_scenario_up", scenario=SHORT) is None
    publish(metrics, session(*TURNS, scenario=SHORT))
    assert scenarios(metrics) == {SHORT}


def test_a_scenario_that_is_no_longer_played_has_no_values(metrics):
    for each in (LONG, SHORT):
        publish(metrics, session(*TURNS, scenario=each))
    metrics.targets["local"].keep_scenarios({SHORT, "new"})
    assert scenarios(metrics) == {SHORT}
    assert scenarios(metrics, "vllm_probe_scenario_up") == {SHORT}


def test_a_notice_stands_as_long_as_the_values_that_it_is_about(metrics):
    def noticed():
        return {dict(labels)["notice"] for labels in Page(metrics).series("vllm_probe_notice")}

    short = frozenset({Notice.OPENING_SHORT})
    publish(metrics, session(*TURNS, scenario=SHORT, notices=short))
    publish(metrics, session(*TURNS, scenario=LONG, notices=frozenset({Notice.MIXED})))
    assert noticed() == {"opening_short", "mixed"}
    publish(metrics, session(*TURNS, scenario=SHORT))
    assert noticed() == {"mixed"}


def test_the_prefill_cost_stands_while_any_scenario_has_values(metrics):
    for result in measured():
        publish(metrics, result)
    publish(metrics, failed_session(scenario=LONG, reason=FailureReason.PROMPT_TOO_LONG))
    known = "vllm_engine_prefill_seconds_per_token"
    assert Page(metrics).value(known) == pytest.approx(0.0002)
    publish(metrics, failed_session(scenario=LONG))
    assert Page(metrics).value(known) is None
