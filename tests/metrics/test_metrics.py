"""Engines, containers and the exporter itself: records in, samples out."""

from __future__ import annotations

import dataclasses

import pytest
from publish_records import (
    STARTED,
    TURNS,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
)
from samples_page import Page, publish

import exporter
from exporter.container.decide.records import DockerProblem, LifecycleState, PullProgress
from exporter.engine.metrics.snapshots import of_replicas
from exporter.metrics.state.target import TargetState
from exporter.model.engine import EngineTotals, replica_key
from exporter.model.session import Notice


def test_replicas_with_pages_of_their_own_are_shown_one_by_one(metrics):
    view = engine_view()
    each = {"a:1": EngineTotals(600.0, 400.0), "b:1": EngineTotals(50.0, 0.0)}
    whole = of_replicas({replica_key("a:1"): view.snapshot}, {replica_key("b:1"): "no answer"})
    publish(metrics, dataclasses.replace(view, snapshot=whole, replicas=each))
    page = Page(metrics)
    assert page.value("vllm_engine_replica_up", replica="a:1") == 1
    assert page.value("vllm_engine_replica_up", replica="b:1") == 0
    assert page.value("vllm_engine_replica_queried_tokens_total", replica="a:1") == 600
    assert page.value("vllm_engine_replica_hit_tokens_total", replica="b:1") == 0
    assert page.value("vllm_engine_requests_running") is None


def test_turns_are_counted_by_whether_they_met_the_replica_of_the_turn_before(metrics):
    first, second, third = TURNS
    on = [dataclasses.replace(first, replica="a:1"), dataclasses.replace(second, replica="a:1")]
    assert Page(metrics).value("vllm_probe_routed_turns_total", replica="same") is None
    publish(metrics, session(*on))
    assert Page(metrics).value("vllm_probe_routed_turns_total", replica="other") == 0
    publish(metrics, session(*on, dataclasses.replace(third, replica="b:1")))
    publish(metrics, session(*on, dataclasses.replace(third, replica=None)))
    page = Page(metrics)
    assert page.value("vllm_probe_routed_turns_total", replica="same") == 3
    assert page.value("vllm_probe_routed_turns_total", replica="other") == 1


def test_an_engine_view_shows_what_it_holds(metrics):
    publish(metrics, engine_view(hit_rate_gauge=0.75))
    page = Page(metrics)
    expected = {
        "vllm_engine_up": 1,
        "vllm_engine_scrape_duration_seconds": 0.004,
        "vllm_engine_restarts_total": 1,
        "vllm_engine_prefix_cache_queried_tokens_total": 5000,
        "vllm_engine_prefix_cache_hit_tokens_total": 4000,
        "vllm_engine_prefix_cache_reported_hit_ratio": 0.75,
        "vllm_engine_tokens_saved_total": 3900,
        "vllm_engine_external_queried_tokens_total": 1000,
        "vllm_engine_external_hit_tokens_total": 480,
        "vllm_engine_kv_cache_usage_ratio": 0.25,
        "vllm_engine_kv_cache_capacity_tokens": 32768,
        "vllm_engine_requests_running": 3,
        "vllm_engine_requests_waiting": 1,
        "vllm_engine_preemptions_total": 2,
        "vllm_engine_prompt_tokens_total": 5100,
        "vllm_engine_generation_tokens_total": 640,
    }
    assert {name: page.value(name) for name in expected} == expected
    assert page.value("vllm_engine_prefix_cache_hit_ratio", window="1m") == 0.5
    assert page.value("vllm_engine_prefix_cache_hit_ratio", window="5m") is None
    assert page.value("vllm_engine_effective_hit_ratio", window="1m") == 0.6
    assert page.value("vllm_engine_cached_tokens_total", source="host") == 480
    assert page.value("vllm_engine_cached_tokens_total", source="p2p") == 20
    assert page.value(
        "vllm_engine_info",
        version="0.32.0",
        model="tiny",
        max_model_len="8192",
        ranks="1",
        simulated="false",
        prefix_caching="true",
        block_size="32",
        match_unit="32",
        num_blocks="1024",
    ) == 1  # fmt: skip


def test_left_out_lookups_are_shown(metrics):
    publish(metrics, engine_view())
    assert Page(metrics).value("vllm_engine_lookups_recounted") == 0
    publish(metrics, dataclasses.replace(engine_view(), recounted=True))
    assert Page(metrics).value("vllm_engine_lookups_recounted") == 1


def test_a_failed_scrape_takes_the_engines_values_away(metrics):
    publish(metrics, engine_view())
    publish(metrics, failed_engine_view())
    page = Page(metrics)
    engine = {name for name in page.names if name.startswith("vllm_engine")}
    assert engine == {
        "vllm_engine_up",
        "vllm_engine_restarts_total",
        "vllm_engine_scrape_failures_total",
    }
    assert page.value("vllm_engine_scrape_failures_total", reason="timeout") == 1
    assert page.value("vllm_engine_up") == 0
    publish(metrics, engine_view())
    assert Page(metrics).value("vllm_engine_prefix_cache_hit_tokens_total") == 4000


def test_what_an_engine_does_not_say_is_absent_or_an_empty_label(metrics):
    publish(metrics, engine_view(totals=EngineTotals(), info=None, cache=None))
    page = Page(metrics)
    totals = {name for name in page.names if name.startswith("vllm_engine") and "_total" in name}
    assert totals == {"vllm_engine_restarts_total", "vllm_engine_scrape_failures_total"}
    assert "vllm_engine_kv_cache_capacity_tokens" not in page.names
    assert "vllm_engine_prefix_cache_reported_hit_ratio" not in page.names
    [labels] = page.series("vllm_engine_info")
    assert {name: value for name, value in labels if value} == {
        "target": "local",
        "model": "tiny",
        "ranks": "1",
    }


def test_a_container_view_shows_what_it_holds(metrics):
    publish(
        metrics,
        container_view(
            state=LifecycleState.BACKING_OFF,
            pull=PullProgress(layers_done=1, layers=4, bytes_done=100, bytes_total=900),
        ),
    )
    page = Page(metrics)
    states = {dict(k)["state"]: v for k, v in page.series("vllm_container_state").items()}
    assert states == {str(s): float(s == "backing_off") for s in LifecycleState}
    expected = {
        "vllm_container_state_timestamp_seconds": STARTED,
        "vllm_container_docker_up": 1,
        "vllm_container_oom_kills_total": 2,
        "vllm_container_model_loads_total": 3,
        "vllm_container_health_failures_total": 4,
        "vllm_container_startup_seconds": 61.5,
        "vllm_container_next_attempt_timestamp_seconds": STARTED + 30,
        "vllm_container_exit_code": 137,
        "vllm_container_config_drift": 0,
        "vllm_container_pull_done_bytes": 100,
        "vllm_container_pull_expected_bytes": 900,
    }
    assert {name: page.value(name) for name in expected} == expected
    assert page.value("vllm_container_diagnosis", reason="oom_killed") == 1
    assert page.value("vllm_container_restarts_total", reason="oom_killed") == 2
    assert page.value("vllm_container_restarts_total", reason="removed") == 0
    assert page.value("vllm_container_start_failures_total", reason="port_taken") == 1
    assert page.value(
        "vllm_container_info",
        mode="managed",
        name="vllm-local",
        image="vllm/vllm-openai:v0.32.0",
        image_id="sha256:1234",
    ) == 1  # fmt: skip


def test_old_values_of_docker_are_absent_while_docker_does_not_answer(metrics):
    silent = container_view(
        state=LifecycleState.UNKNOWN, docker_problem=DockerProblem.UNREACHABLE, config_drift=None
    )
    publish(metrics, silent)
    page = Page(metrics)
    assert page.value("vllm_container_docker_up") == 0
    assert page.value("vllm_container_state", state="unknown") == 1
    for name in ("exit_code", "info", "config_drift"):
        assert f"vllm_container_{name}" not in page.names
    assert page.value("vllm_container_oom_kills_total") == 2


def test_a_refusal_of_docker_is_an_answer(metrics):
    publish(metrics, container_view(docker_problem=DockerProblem.IMAGE_NOT_FOUND))
    assert Page(metrics).value("vllm_container_docker_up") == 1


def test_a_running_container_has_no_exit_code_and_a_healthy_one_no_diagnosis(metrics):
    publish(metrics, container_view(state=LifecycleState.READY, exit_code=None, diagnosed=False))
    page = Page(metrics)
    assert "vllm_container_exit_code" not in page.names
    assert "vllm_container_diagnosis" not in page.names


def test_the_exporter_shows_its_version_and_its_loops(metrics):
    metrics.exporter.loops.ran("probe", 123.5)
    metrics.exporter.loops.failed("scrape")
    metrics.exporter.loops.failed("scrape")
    samples = Page(metrics).samples
    assert (
        samples[("vllm_exporter_loop_last_run_timestamp_seconds", _labels(loop="probe"))] == 123.5
    )
    assert samples[("vllm_exporter_loop_failures_total", _labels(loop="probe"))] == 0
    assert samples[("vllm_exporter_loop_failures_total", _labels(loop="scrape"))] == 2
    [build] = Page(metrics).series("vllm_exporter_build_info")
    assert dict(build)["version"] == exporter.__version__
    assert dict(build)["revision"] == ""  # a checkout has none


def test_the_revision_of_a_build_is_a_label(metrics):
    metrics.exporter.revision = "abc123"
    [build] = Page(metrics).series("vllm_exporter_build_info")
    assert dict(build)["revision"] == "abc123"


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def test_targets_are_told_apart(metrics):
    metrics.add(TargetState("one"))
    metrics.add(TargetState("two"))
    publish(metrics, session(*TURNS, target="one"))
    publish(metrics, failed_session(target="two"))
    up = {dict(k)["target"]: v for k, v in Page(metrics).series("vllm_probe_up").items()}
    assert up == {"one": 1, "two": 0}


def test_the_secrets_of_a_url_are_not_kept(metrics):
    metrics.add(TargetState("other", url="https://me:hunter2@host:8000/v?key=hunter2#hunter2"))
    assert metrics.targets["other"].url == "https://host:8000/v"


@pytest.mark.parametrize("model", ['a"b\\c\nd', "half a pair \ud800", "模型", "a,b={}"])
def test_any_name_of_a_model_survives_the_page(metrics, model):
    info = dataclasses.replace(engine_view().info, model=model)
    publish(metrics, engine_view(info=info))
    [labels] = Page(metrics).series("vllm_engine_info")
    assert dict(labels)["model"] == model.replace("\ud800", "?")


def test_counters_have_no_created_series(metrics):
    publish(metrics, session(*TURNS))
    publish(metrics, engine_view())
    publish(metrics, container_view())
    assert not {name for name in Page(metrics).names if name.endswith("_created")}


def test_what_sessions_show_to_be_transfers_is_no_hit_in_any_tier(metrics):
    publish(metrics, engine_view())
    publish(metrics, session(*TURNS, notices=frozenset({Notice.TRANSFER})))
    page = Page(metrics)
    assert page.value("vllm_engine_external_hit_tokens_total") is None
    assert page.value("vllm_engine_effective_hit_ratio", window="1m") is None
    assert page.value("vllm_engine_external_queried_tokens_total") == 1000
    assert page.value("vllm_engine_cached_tokens_total", source="p2p") == 20
    publish(metrics, engine_view(restarts=2))
    assert Page(metrics).value("vllm_engine_external_hit_tokens_total") == 480


def test_an_engine_that_does_not_count_external_hits_has_no_family_of_them(metrics):
    publish(metrics, engine_view(totals=EngineTotals(queried_tokens=5000.0, hit_tokens=4000.0)))
    names = Page(metrics).names
    assert not [name for name in names if "external" in name or "cached_tokens" in name]
