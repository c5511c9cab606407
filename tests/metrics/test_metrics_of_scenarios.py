"""Several scenarios in turn: the values of each stand until its own next session."""

from __future__ import annotations

import pytest
from publish_records import TURNS, UNSTABLE, failed_session, measured, session, turn
from samples_page import Page

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


def scenarios(registry, family="vllm_probe_turn_hit_ratio"):
    return {dict(labels)["scenario"] for labels in Page(registry).series(family)}


def test_the_values_of_a_scenario_stand_while_others_are_played(metrics, registry):
    metrics.session_finished(session(*TURNS, scenario=LONG, prefix=UNSTABLE))
    for _ in range(3):
        metrics.session_finished(session(*TURNS[:2], scenario=SHORT))
    page = Page(registry)
    assert page.value("vllm_probe_prefix_stable", scenario=LONG) == 0
    assert page.value("vllm_probe_prefix_stable", scenario=SHORT) == 1
    assert page.value("vllm_probe_turn_hit_ratio", scenario=LONG, turn="3") == 1024 / 1500
    assert page.value("vllm_probe_turn_hit_ratio", scenario=SHORT, turn="2") == 992 / 1250
    assert page.value("vllm_probe_turn_hit_ratio", scenario=SHORT, turn="3") is None


def test_the_next_session_of_a_scenario_takes_the_place_of_its_last_one(metrics, registry):
    metrics.session_finished(session(*TURNS, scenario=LONG, prefix=UNSTABLE))
    metrics.session_finished(session(*TURNS, scenario=SHORT))
    metrics.session_finished(session(turn(1, 900, 0, 0), scenario=LONG))
    page = Page(registry)
    assert page.value("vllm_probe_prefix_stable", scenario=LONG) == 1
    assert page.value("vllm_probe_turn_prompt_tokens", scenario=LONG, turn="1") == 900
    assert page.value("vllm_probe_turn_prompt_tokens", scenario=LONG, turn="3") is None
    assert page.value("vllm_probe_turn_prompt_tokens", scenario=SHORT, turn="3") == 1500


@pytest.mark.parametrize("reason", OF_ONE_SCENARIO)
def test_a_session_that_fails_for_its_own_reason_takes_away_the_values_of_its_scenario_alone(
    metrics, registry, reason
):
    for each in (LONG, SHORT):
        metrics.session_finished(session(*TURNS, scenario=each))
    metrics.session_finished(failed_session(*TURNS[:2], scenario=LONG, reason=reason))
    assert scenarios(registry) == {SHORT}
    page = Page(registry)
    assert page.value("vllm_probe_up") == 0
    assert page.value("vllm_probe_scenario_up", scenario=LONG) == 0
    assert page.value("vllm_probe_scenario_up", scenario=SHORT) == 1


@pytest.mark.parametrize("reason", [r for r in FailureReason if r not in OF_ONE_SCENARIO])
def test_a_target_that_fails_loses_the_values_of_all_its_scenarios(metrics, registry, reason):
    for each in (LONG, SHORT):
        metrics.session_finished(session(*TURNS, scenario=each))
    metrics.session_finished(failed_session(scenario=LONG, reason=reason))
    assert scenarios(registry) == set()
    assert scenarios(registry, "vllm_probe_prefix_stable") == set()
    page = Page(registry)
    assert page.value("vllm_probe_cache_wedged") is None
    assert page.value("vllm_probe_scenario_up", scenario=LONG) == 0
    assert page.value("vllm_probe_scenario_up", scenario=SHORT) is None
    metrics.session_finished(session(*TURNS, scenario=SHORT))
    assert scenarios(registry) == {SHORT}


def test_a_scenario_that_is_played_no_more_has_no_values(metrics, registry):
    for each in (LONG, SHORT):
        metrics.session_finished(session(*TURNS, scenario=each))
    metrics.scenarios_wanted("local", {SHORT, "new"})
    assert scenarios(registry) == {SHORT}
    assert scenarios(registry, "vllm_probe_scenario_up") == {SHORT}


def test_a_notice_stands_as_long_as_the_values_that_it_is_about(metrics, registry):
    def noticed():
        return {dict(labels)["notice"] for labels in Page(registry).series("vllm_probe_notice")}

    short = frozenset({Notice.OPENING_SHORT})
    metrics.session_finished(session(*TURNS, scenario=SHORT, notices=short))
    metrics.session_finished(session(*TURNS, scenario=LONG, notices=frozenset({Notice.MIXED})))
    assert noticed() == {"opening_short", "mixed"}
    metrics.session_finished(session(*TURNS, scenario=SHORT))
    assert noticed() == {"mixed"}


def test_the_prefill_cost_stands_while_any_scenario_has_values(metrics, registry):
    for result in measured():
        metrics.session_finished(result)
    metrics.session_finished(failed_session(scenario=LONG, reason=FailureReason.PROMPT_TOO_LONG))
    known = "vllm_engine_prefill_seconds_per_token"
    assert Page(registry).value(known) == pytest.approx(0.0002)
    metrics.session_finished(failed_session(scenario=LONG))
    assert Page(registry).value(known) is None
