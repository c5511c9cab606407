"""Every query of every panel, asked of a real Prometheus that scrapes a real exporter."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from grafana_dashboards import MODELS, Question, every_query, panel, panel_queries

from exporter.container.decide.records import LifecycleState
from grafana import expressions as promql

if TYPE_CHECKING:
    from collections.abc import Callable

DEMO, HEALTHY, FAILING, ROUTED = "demo", "healthy", "failing", "routed"

pytestmark = pytest.mark.docker


def until(stack, what: str, value: Callable[[], object]) -> object:
    """Wait until `value` returns something, and return it."""
    while True:
        said = value()
        if said:
            return said
        if time.monotonic() > stack.give_up:
            pytest.fail(f"never: {what}")
        time.sleep(0.2)


def target_of(question: Question) -> str:
    """The demo has no container, no users and no --kv-cache-metrics. Queries about these use a
    healthy engine with all of them, and those about replicas one behind a router.
    """
    if re.search("vllm_engine_replica_|vllm_probe_routed_", question.expr):
        return ROUTED
    lacking = "vllm_container_|vllm_engine_users_|vllm_engine_kv_block_"
    return HEALTHY if re.search(lacking, question.expr) else DEMO


def query_of(dashboard: str, title: str, ref: str = "A") -> str:
    (expr,) = (t["expr"] for t in panel(dashboard, title)["targets"] if t["refId"] == ref)
    return expr


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_panel_has_data(stack, name):
    waiting = panel_queries(name)
    assert waiting
    while waiting:
        waiting = [q for q in waiting if not stack.numbers(q.expr, target_of(q))]
        if waiting and time.monotonic() > stack.give_up:
            pytest.fail("no data:\n" + "\n".join(map(str, waiting)))
        if waiting:
            time.sleep(0.2)


def test_prometheus_understands_the_annotations(stack):
    annotations = {
        question.expr for question in every_query() if question.place.endswith("restarts")
    }
    assert len(annotations) == 2
    for expr in annotations:
        quiet = stack.ask(expr, ".*")
        assert quiet == [], "nothing was restarted"
        # This Prometheus is younger than a minute.
        growth = expr.partition(" unless ")[0]
        zeros = growth.replace(" > 0", " == 0")
        until(stack, expr, lambda zeros=zeros: stack.ask(zeros, ".*"))


def test_the_last_session_has_every_turn(stack):
    title = "The last session in figures"

    def told() -> list[set[str]]:
        answers = [
            {series["metric"]["turn"] for series in stack.ask(target["expr"], DEMO)}
            for target in panel("session", title)["targets"]
        ]
        return answers if all(answers) else []

    turns = until(stack, "a session", told)
    assert turns[0] == {str(number) for number in range(1, 9)}, "the demo's sessions have 8 turns"
    # A first turn has no efficiency: nothing could have been cached.
    assert all(has in (turns[0], turns[0] - {"1"}) for has in turns)


def test_a_healthy_cache_has_full_efficiency_and_warm_turns_are_faster(stack):
    hits = until(stack, "hits", lambda: stack.numbers(promql.PROBE_HIT_RATIO, DEMO))
    assert 0.5 < hits[0] < 1
    until(stack, "efficiency", lambda: stack.numbers(promql.PROBE_EFFICIENCY, DEMO))
    assert stack.numbers(promql.PROBE_EFFICIENCY, DEMO) == [pytest.approx(1)]
    cold, warm = (promql.ttft_quantile(0.5, cache) for cache in ("cold", "warm"))
    until(stack, "cold turns", lambda: stack.numbers(cold, DEMO))
    assert stack.numbers(cold, DEMO) > stack.numbers(warm, DEMO)


def test_a_heatmap_has_whole_turns(stack):
    heat = query_of("session", "Time to first token, warm turns")
    until(stack, "warm turns", lambda: max(stack.numbers(heat, DEMO), default=0) > 1)
    assert all(number == int(number) for number in stack.numbers(heat, DEMO))


def test_the_banner_says_simulated_or_real_or_that_no_engine_answers(stack):
    banner = query_of("overview", "Real or simulated")
    until(stack, "the demo's engine", lambda: stack.numbers(banner, DEMO))
    until(stack, "the other engines", lambda: stack.numbers("vllm_engine_up", ".*")[2:])
    assert stack.numbers(banner, DEMO) == [1]
    assert stack.numbers(banner, f"{DEMO}|{HEALTHY}") == [1], "one simulator is enough for a banner"
    assert stack.numbers(banner, HEALTHY) == [0]
    assert stack.numbers(banner, FAILING) == [-1], "an engine that does not answer is not real"


def test_the_timeline_has_one_state_per_container(stack):
    timeline = query_of("engine", "State of the container")
    until(stack, "two containers", lambda: len(stack.ask(timeline, ".*")) == 2)
    assert stack.numbers(timeline, HEALTHY) == [promql.STATE_CODES[LifecycleState.READY]]
    assert stack.numbers(timeline, FAILING) == [promql.STATE_CODES[LifecycleState.BACKING_OFF]]


def test_the_diagnosis_of_a_container_is_its_cause_or_none(stack):
    diagnosis = query_of("engine", "Diagnosis")
    until(stack, "four targets", lambda: len(stack.ask(diagnosis, ".*")) == 4)
    said = {
        series["metric"]["target"]: (series["metric"]["reason"], series["value"][1])
        for series in stack.ask(diagnosis, ".*")
    }
    without = ("no container", "NaN")
    assert said == {
        HEALTHY: ("none", "0"),
        FAILING: ("oom_killed", "1"),
        DEMO: without,
        ROUTED: without,
    }


def test_the_fleet_has_a_row_for_each_target(stack):
    engines = panel("fleet", "Targets")["targets"][0]["expr"]
    until(stack, "four targets", lambda: len(stack.ask(engines, ".*")) == 4)
    for target in panel("fleet", "Targets")["targets"]:
        for series in stack.ask(target["expr"], ".*"):
            assert set(series["metric"]) == {"target"}, "a second label would double the row"


def test_the_container_of_a_target_without_one_is_none_and_not_unknown(stack):
    (expr,) = (
        target["expr"]
        for target in panel("fleet", "Targets")["targets"]
        if "vllm_container_state" in target["expr"]
    )
    until(stack, "four targets", lambda: len(stack.ask(expr, ".*")) == 4)
    assert stack.numbers(expr, DEMO) == [-1]
    assert stack.numbers(expr, FAILING) == [promql.STATE_CODES[LifecycleState.BACKING_OFF]]


def test_the_headline_of_a_target_without_sessions_is_unknown_and_does_not_drop_out(stack):
    headline = query_of("overview", "Hit ratio of the last session")
    until(stack, "the demo's hit ratio", lambda: stack.numbers(headline, DEMO))
    until(stack, "four targets", lambda: len(stack.ask(headline, ".*")) == 4)
    assert stack.numbers(headline, FAILING) == []
    (failing,) = stack.ask(headline, FAILING)
    assert failing["value"][1] == "NaN"


def test_what_the_exporter_measured_is_unknown_once_it_is_gone(dying):
    stack, end_exporter = dying
    titles = ("Hit ratio of the last session", "Efficiency of the last session", "Repeated prompts")
    asked = [query_of("overview", title) for title in titles]
    asked += [
        target["expr"]
        for target in panel("fleet", "Targets")["targets"]
        if "$__range" not in target["expr"]  # what it counted in the time range is known
    ]
    exporter = query_of("overview", "Exporter")
    until(stack, "hits", lambda: all(stack.numbers(expr, DEMO) for expr in asked[:2]))
    assert stack.numbers(exporter, DEMO) == [1]
    end_exporter()
    until(stack, "the end", lambda: stack.numbers(exporter, DEMO) == [0])
    until(stack, "unknown", lambda: not any(stack.ask(expr, DEMO) for expr in asked[:2]))
    fresh = [expr for expr in asked if stack.numbers(expr, DEMO) and "ALERTS" not in expr]
    assert fresh == []
    assert stack.ask(query_of("overview", "Real or simulated"), DEMO) == []
    (waits,) = stack.ask(query_of("overview", "Why the probe waits"), DEMO)
    assert waits["metric"] == {"reason": "unknown", "target": "all targets"}
