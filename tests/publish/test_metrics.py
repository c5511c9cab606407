"""Records in, samples out: the exact values of hand-made records."""

from __future__ import annotations

import dataclasses

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from publish_records import (
    STARTED,
    TURNS,
    UNSTABLE,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
    turn,
)

import exporter
from exporter.container.records import DockerProblem, LifecycleState, PullProgress
from exporter.model import EngineTotals, FailureReason, LossCause, Notice, SaltReading
from exporter.publish.metrics import Metrics


class Page:
    """The samples of a registry, read back from its text as Prometheus would read them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        text = generate_latest(registry).decode()
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        self.names = {name for name, _ in self.samples}

    def value(self, family: str, /, **labels: str) -> float | None:
        return self.samples.get((family, frozenset({"target": "local", **labels}.items())))

    def series(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (n, labels), value in self.samples.items() if n == name}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry) -> Metrics:
    metrics = Metrics(registry)
    metrics.target_added("local")
    return metrics


def test_a_finished_session_shows_every_turn(metrics, registry):
    metrics.session_finished(session(*TURNS))
    page = Page(registry)
    third = {"scenario": "coding-agent", "turn": "3"}
    assert page.value("vllm_probe_up") == 1
    assert page.value("vllm_probe_turn_hit_ratio", **third) == 1024 / 1500
    assert page.value("vllm_probe_turn_ideal_hit_ratio", **third) == 1280 / 1500
    assert page.value("vllm_probe_turn_efficiency_ratio", **third) == 0.8
    assert page.value("vllm_probe_turn_tokens_saved", **third) == 1024
    assert page.value("vllm_probe_turn_prompt_tokens", **third) == 1500
    assert page.value("vllm_probe_turn_completion_tokens", **third) == 32
    assert page.value("vllm_probe_turn_ttft_seconds", **third) == 0.125
    assert page.value("vllm_probe_turn_latency_seconds", **third) == 1.5
    assert page.value("vllm_probe_session_duration_seconds") == 8
    assert page.value("vllm_probe_last_success_timestamp_seconds") == STARTED + 8
    assert len(page.series("vllm_probe_turn_hit_ratio")) == 3
    # A first turn's ideal is 0, so it has no efficiency.
    assert len(page.series("vllm_probe_turn_efficiency_ratio")) == 2


def test_sessions_add_up_in_the_counters(metrics, registry):
    for _ in range(2):
        metrics.session_finished(session(*TURNS))
    metrics.session_finished(failed_session(*TURNS[:2]))
    page = Page(registry)
    assert page.value("vllm_probe_sessions_total") == 3
    assert page.value("vllm_probe_session_failures_total", reason="connection_refused") == 1
    assert page.value("vllm_probe_session_failures_total", reason="stalled") == 0
    assert page.value("vllm_probe_prompt_tokens_total") == 2 * 3750 + 2250
    assert page.value("vllm_probe_cached_tokens_total") == 2 * 2016 + 992
    assert page.value("vllm_probe_ideal_cached_tokens_total") == 2 * 2272 + 992
    assert page.value("vllm_probe_completion_tokens_total") == 8 * 32
    assert page.value("vllm_probe_consumed_tokens_total") == 2 * 3750 + 2250 + 8 * 32
    assert page.value("vllm_probe_lost_tokens_total", cause="unexplained") == 512
    assert page.value("vllm_probe_lost_tokens_total", cause="disabled") == 0


def test_times_go_into_histograms_by_the_temperature_of_the_cache(metrics, registry):
    metrics.session_finished(session(*TURNS, turn(4, 1700, None, None, ttft=3.0)))
    page = Page(registry)
    assert page.value("vllm_probe_ttft_seconds_count", cache="cold") == 1
    assert page.value("vllm_probe_ttft_seconds_sum", cache="cold") == 0.5
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="0.25") == 0
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="0.5") == 1
    assert page.value("vllm_probe_ttft_seconds_count", cache="warm") == 2
    assert page.value("vllm_probe_ttft_seconds_sum", cache="warm") == 0.1875
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="warm", le="+Inf") == 2
    assert page.value("vllm_probe_ttft_seconds_count", cache="unknown") == 1
    assert page.value("vllm_probe_inter_token_seconds_count") == 3
    assert page.value("vllm_probe_inter_token_seconds_sum") == pytest.approx(0.04)
    assert page.value("vllm_probe_inter_token_seconds_bucket", le="0.01") == 2


def test_a_time_beyond_every_bound_counts_only_in_the_last_bucket(metrics, registry):
    metrics.session_finished(session(turn(1, 1000, 0, 0, ttft=1e4)))
    page = Page(registry)
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="160.0") == 0
    assert page.value("vllm_probe_ttft_seconds_bucket", cache="cold", le="+Inf") == 1


def test_a_failed_session_takes_the_last_sessions_values_away(metrics, registry):
    metrics.session_finished(session(*TURNS, notices=frozenset({Notice.SIMULATED})))
    metrics.session_finished(failed_session(*TURNS[:2], reason=FailureReason.STALLED))
    page = Page(registry)
    assert page.value("vllm_probe_up") == 0
    assert not {name for name in page.names if name.startswith("vllm_probe_turn_")}
    assert "vllm_probe_session_duration_seconds" not in page.names
    assert "vllm_probe_notice" not in page.names
    assert page.value("vllm_probe_last_success_timestamp_seconds") == STARTED + 8
    metrics.session_finished(session(*TURNS))
    assert len(Page(registry).series("vllm_probe_turn_hit_ratio")) == 3


def test_a_shorter_session_leaves_no_turn_of_a_longer_one_behind(metrics, registry):
    metrics.session_finished(session(*TURNS))
    metrics.session_finished(session(*TURNS[:1]))
    assert len(Page(registry).series("vllm_probe_turn_prompt_tokens")) == 1


def test_before_the_first_session_only_true_zeros_are_there(metrics, registry):
    page = Page(registry)
    zero = {name for name in page.names if name.startswith("vllm_probe")}
    assert page.value("vllm_probe_sessions_total") == 0
    assert len(page.series("vllm_probe_session_failures_total")) == len(FailureReason)
    assert {name.removesuffix("_total") for name in zero if name.endswith("_total")} == {
        "vllm_probe_sessions",
        "vllm_probe_session_failures",
        "vllm_probe_controls",
        "vllm_probe_isolation_tests",
        "vllm_probe_isolation_leaks",
    }
    assert "vllm_probe_up" not in page.names
    assert "vllm_engine_up" not in page.names
    assert "vllm_container_state" not in page.names


def test_without_cached_tokens_there_is_no_ratio_and_no_zero(metrics, registry):
    metrics.session_finished(
        session(
            turn(1, 1000, None, 0),
            turn(2, 1250, None, 992),
            notices=frozenset({Notice.USAGE_DETAILS_MISSING}),
        )
    )
    page = Page(registry)
    assert page.value("vllm_probe_up") == 1
    for name in ("hit_ratio", "efficiency_ratio", "tokens_saved"):
        assert f"vllm_probe_turn_{name}" not in page.names
    for name in ("prompt", "cached", "ideal_cached", "lost"):
        assert f"vllm_probe_{name}_tokens_total" not in page.names
    assert page.value("vllm_probe_consumed_tokens_total") == 2250 + 64
    assert page.value("vllm_probe_notice", notice="usage_details_missing") == 1


def test_a_session_without_cached_tokens_does_not_lower_the_ratio_of_the_counters(
    metrics, registry
):
    metrics.session_finished(session(*TURNS))
    before = Page(registry)
    metrics.session_finished(session(turn(1, 1000, None, 0), turn(2, 1250, None, 992)))
    after = Page(registry)
    for name in ("prompt", "cached", "ideal_cached"):
        whole = f"vllm_probe_{name}_tokens_total"
        assert after.value(whole) == before.value(whole)
    assert after.value("vllm_probe_consumed_tokens_total") == 3750 + 96 + 2250 + 64


def test_a_session_without_ideals_does_not_change_the_efficiency_of_the_counters(metrics, registry):
    metrics.session_finished(session(*TURNS))
    metrics.session_finished(session(turn(1, 1000, 0, 0), turn(2, 1250, 992, None)))
    page = Page(registry)
    lost = sum(page.series("vllm_probe_lost_tokens_total").values())
    assert 1 - lost / page.value("vllm_probe_ideal_cached_tokens_total") == 1 - 256 / 2272


def test_an_engine_that_never_gives_ideals_is_not_said_to_lose_nothing(metrics, registry):
    metrics.session_finished(session(turn(1, 1000, 0, 0), turn(2, 1250, 992, None)))
    page = Page(registry)
    assert "vllm_probe_lost_tokens_total" not in page.names
    assert "vllm_probe_ideal_cached_tokens_total" not in page.names


def test_losses_are_counted_under_their_cause(metrics, registry):
    metrics.session_finished(session(turn(2, 1250, 0, 992, cause=LossCause.DISABLED)))
    page = Page(registry)
    assert page.value("vllm_probe_lost_tokens_total", cause="disabled") == 992
    assert page.value("vllm_probe_lost_tokens_total", cause="restart") == 0


def test_turns_above_the_limit_have_no_series_and_count_all_the_same(registry):
    metrics = Metrics(registry, turn_label_limit=2)
    metrics.target_added("local")
    metrics.session_finished(session(*TURNS))
    page = Page(registry)
    shown = {dict(labels)["turn"] for labels in page.series("vllm_probe_turn_hit_ratio")}
    assert shown == {"1", "2"}
    assert page.value("vllm_probe_prompt_tokens_total") == 3750


def test_an_engine_view_shows_what_it_holds(metrics, registry):
    metrics.engine_scraped(engine_view(hit_rate_gauge=0.75))
    page = Page(registry)
    expected = {
        "vllm_engine_up": 1,
        "vllm_engine_scrape_duration_seconds": 0.004,
        "vllm_engine_restarts_total": 1,
        "vllm_engine_prefix_cache_queried_tokens_total": 5000,
        "vllm_engine_prefix_cache_hit_tokens_total": 4000,
        "vllm_engine_prefix_cache_reported_hit_ratio": 0.75,
        "vllm_engine_tokens_saved_total": 3900,
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


def test_a_failed_scrape_takes_the_engines_values_away(metrics, registry):
    metrics.engine_scraped(engine_view())
    metrics.engine_scraped(failed_engine_view())
    page = Page(registry)
    engine = {name for name in page.names if name.startswith("vllm_engine")}
    assert engine == {
        "vllm_engine_up",
        "vllm_engine_restarts_total",
        "vllm_engine_scrape_failures_total",
    }
    assert page.value("vllm_engine_scrape_failures_total", reason="timeout") == 1
    assert page.value("vllm_engine_up") == 0
    metrics.engine_scraped(engine_view())
    assert Page(registry).value("vllm_engine_prefix_cache_hit_tokens_total") == 4000


def test_what_an_engine_does_not_say_is_absent_or_an_empty_label(metrics, registry):
    metrics.engine_scraped(engine_view(totals=EngineTotals(), info=None, cache=None))
    page = Page(registry)
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


def test_a_container_view_shows_what_it_holds(metrics, registry):
    metrics.container_changed(
        container_view(
            state=LifecycleState.BACKING_OFF,
            pull=PullProgress(layers_done=1, layers=4, bytes_done=100, bytes_total=900),
        )
    )
    page = Page(registry)
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


def test_what_docker_told_is_not_repeated_once_docker_is_silent(metrics, registry):
    silent = container_view(
        state=LifecycleState.UNKNOWN, docker_problem=DockerProblem.UNREACHABLE, config_drift=None
    )
    metrics.container_changed(silent)
    page = Page(registry)
    assert page.value("vllm_container_docker_up") == 0
    assert page.value("vllm_container_state", state="unknown") == 1
    for name in ("exit_code", "info", "config_drift"):
        assert f"vllm_container_{name}" not in page.names
    assert page.value("vllm_container_oom_kills_total") == 2


def test_an_answer_of_docker_that_says_no_is_still_an_answer(metrics, registry):
    metrics.container_changed(container_view(docker_problem=DockerProblem.IMAGE_NOT_FOUND))
    assert Page(registry).value("vllm_container_docker_up") == 1


def test_a_running_container_has_no_exit_code_and_a_well_one_no_diagnosis(metrics, registry):
    metrics.container_changed(
        container_view(state=LifecycleState.READY, exit_code=None, diagnosed=False)
    )
    page = Page(registry)
    assert "vllm_container_exit_code" not in page.names
    assert "vllm_container_diagnosis" not in page.names


def test_the_exporter_tells_of_itself(metrics, registry):
    metrics.loop_ran("probe", 123.5)
    metrics.loop_failed("scrape")
    metrics.loop_failed("scrape")
    samples = Page(registry).samples
    assert (
        samples[("vllm_exporter_loop_last_run_timestamp_seconds", _labels(loop="probe"))] == 123.5
    )
    assert samples[("vllm_exporter_loop_failures_total", _labels(loop="probe"))] == 0
    assert samples[("vllm_exporter_loop_failures_total", _labels(loop="scrape"))] == 2
    [build] = Page(registry).series("vllm_exporter_build_info")
    assert dict(build)["version"] == exporter.__version__


def _labels(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def test_targets_are_told_apart(metrics, registry):
    metrics.target_added("one")
    metrics.target_added("two")
    metrics.session_finished(session(*TURNS, target="one"))
    metrics.session_finished(failed_session(target="two"))
    up = {dict(k)["target"]: v for k, v in Page(registry).series("vllm_probe_up").items()}
    assert up == {"one": 1, "two": 0}


def test_adding_a_target_again_keeps_its_counters(metrics, registry):
    metrics.session_finished(session(*TURNS))
    metrics.target_added("local")
    assert Page(registry).value("vllm_probe_sessions_total") == 1


def test_the_secrets_of_a_url_are_not_kept(metrics):
    metrics.target_added("other", url="https://me:hunter2@host:8000/v?key=hunter2#hunter2")
    assert metrics.targets["other"].url == "https://host:8000/v"


@pytest.mark.parametrize("model", ['a"b\\c\nd', "half a pair \ud800", "模型", "a,b={}"])
def test_any_name_of_a_model_survives_the_page(metrics, registry, model):
    info = dataclasses.replace(engine_view().info, model=model)
    metrics.engine_scraped(engine_view(info=info))
    [labels] = Page(registry).series("vllm_engine_info")
    assert dict(labels)["model"] == model.replace("\ud800", "?")


def test_no_series_tells_when_a_counter_was_made(metrics, registry):
    metrics.session_finished(session(*TURNS))
    metrics.engine_scraped(engine_view())
    metrics.container_changed(container_view())
    assert not {name for name in Page(registry).names if name.endswith("_created")}


def test_two_exporters_do_not_share_a_registry(metrics, registry):
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)


def test_a_prefix_is_stable_unstable_or_not_known_and_its_text_stays_out(metrics, registry):
    scenario = {"scenario": "coding-agent"}
    metrics.session_finished(session(*TURNS))
    assert Page(registry).value("vllm_probe_prefix_stable", **scenario) == 1
    metrics.session_finished(session(*TURNS, prefix=UNSTABLE))
    assert Page(registry).value("vllm_probe_prefix_stable", **scenario) == 0
    assert "careful" not in generate_latest(registry).decode()
    metrics.session_finished(session(*TURNS, prefix=None))
    assert Page(registry).series("vllm_probe_prefix_stable") == {}
    metrics.session_finished(session(*TURNS))
    metrics.session_finished(failed_session(*TURNS))
    assert Page(registry).series("vllm_probe_prefix_stable") == {}


@pytest.mark.parametrize(
    ("turns", "value"),
    [
        (TURNS, 0),
        ((turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.WEDGED)), 1),
        ((turn(2, 1250, 0, 992, cause=LossCause.WEDGED), turn(3, 1500, 992, 992)), 0),
        ((turn(1, 1000, 0, 0), turn(2, 1250, 0, 992, cause=LossCause.EVICTED)), None),
        ((turn(1, 1000, None, 0), turn(2, 1250, None, 992)), None),
    ],
)
def test_a_cache_is_wedged_not_wedged_or_not_known(metrics, registry, turns, value):
    metrics.session_finished(session(*turns))
    assert Page(registry).value("vllm_probe_cache_wedged") == value


def test_isolation_tests_that_could_tell_are_counted_and_those_that_leaked(metrics, registry):
    def counts():
        page = Page(registry)
        names = ("vllm_probe_isolation_tests_total", "vllm_probe_isolation_leaks_total")
        return tuple(page.value(name) for name in names)

    assert counts() == (0, 0)
    for leaked in (False, True, None, True):
        metrics.salts_tried(SaltReading("local", leaked=leaked, wedged=None))
    assert counts() == (3, 2)


def test_whether_the_cache_is_wedged_is_said_by_the_latest_that_could_tell(metrics, registry):
    def said():
        return Page(registry).value("vllm_probe_cache_wedged")

    metrics.session_finished(session(*TURNS))
    metrics.salts_tried(SaltReading("local", leaked=None, wedged=True))
    assert said() == 1
    metrics.salts_tried(SaltReading("local", leaked=None, wedged=None))
    assert said() == 1
    metrics.session_finished(session(*TURNS))
    assert said() == 0
    metrics.session_finished(failed_session(*TURNS))
    assert said() is None


def test_requests_beside_the_turns_count_in_what_the_probe_consumed(metrics, registry):
    metrics.session_finished(session(TURNS[0], extra_tokens=1001))
    page = Page(registry)
    assert page.value("vllm_probe_consumed_tokens_total") == 1000 + 32 + 1001
    assert page.value("vllm_probe_prompt_tokens_total") == 1000
