"""Every sample of /metrics is in the OTLP data with its value and labels, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from happenings import LIMIT, TARGETS, Engines, steps
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from otlp_receiver import samples
from prometheus_client.parser import text_string_to_metric_families
from publish_records import STARTED, TURNS, container_view, engine_view, failed_session, session
from samples_page import page_text, publish

from exporter.metrics.families.tables import TARGET_FAMILIES
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.session import SessionResult
from exporter.otlp.sdk.mapping.metric_data import Moment, StartTimes, nanoseconds

NOW, BEGAN = nanoseconds(STARTED + 60), nanoseconds(STARTED - 5)


def encoded(metrics: Metrics, starts: StartTimes | None = None, now: int = NOW):
    """The request that the SDK makes of a moment."""
    moment, starts = Moment(now, BEGAN), starts or StartTimes()
    moment.add_exporter(metrics.exporter)
    for state in metrics.targets.values():
        moment.add_target(state, starts)
    scope = ScopeMetrics(InstrumentationScope("test"), moment.metrics(), "")
    request = encode_metrics(MetricsData([ResourceMetrics(Resource({}), [scope], "")]))
    assert moment.points == sum(len(points(metric)) for metric in every(request))
    return request


def every(request):
    return [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]


def points(metric):
    return getattr(metric, metric.WhichOneof("data")).data_points


def named(request, name):
    (found,) = [metric for metric in every(request) if metric.name == name]
    return found


def on_the_page(metrics: Metrics) -> dict[tuple, float]:
    found = {}
    for family in text_string_to_metric_families(page_text(metrics)):
        for sample in family.samples:
            labels = dict(sample.labels)
            if "le" in labels:
                labels["le"] = float(labels["le"])
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


def still(found: dict[tuple, float]) -> dict[tuple, float]:
    """Without the values of the process, which change all the time."""
    return {key: value for key, value in found.items() if not key[0].startswith("process_")}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(steps, max_size=8),
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30),
    st.lists(st.floats(allow_nan=False)),
)
def test_the_data_is_the_page(happenings, text, times):
    metrics, engines = Metrics(turn_label_limit=LIMIT), Engines()
    for target in TARGETS:
        metrics.add(TargetState(target, labels={"team": target, "gpu": "h100"}))
    for step in happenings:
        publish(metrics, step if isinstance(step, SessionResult) else engines.view(*step))
    info = replace(engine_view().info, model=text)
    publish(metrics, replace(engines.view("one", [1] * 6), info=info))
    for number, time in enumerate(times):
        metrics.exporter.loops.ran(f"{text}{number}", time)
    sent, page = samples(encoded(metrics)), on_the_page(metrics)
    assert still(sent) == still(page)
    assert sent.keys() == page.keys(), "also of the process"


@pytest.fixture
def metrics():
    made = Metrics()
    made.add(TargetState("local", created_time=STARTED))
    for record in (session(*TURNS), engine_view(), container_view()):
        publish(made, record)
    return made


def test_a_gauge_a_counter_and_a_histogram_keep_their_kinds(metrics):
    request = encoded(metrics)
    kinds = {metric.name: metric.WhichOneof("data") for metric in every(request)}
    expected = {"gauge": "gauge", "counter": "sum", "histogram": "histogram"}
    known = {family.name: expected[family.kind] for family in TARGET_FAMILIES}
    assert {name: kind for name, kind in kinds.items() if name in known} == {
        name: known[name] for name in kinds if name in known
    }
    total = named(request, "vllm_probe_sessions_total").sum
    assert total.is_monotonic
    assert total.aggregation_temporality == 2  # cumulative


def test_no_metric_is_there_twice_and_none_has_a_unit_that_would_change_its_name(metrics):
    metrics.add(TargetState("other"))
    names = [metric.name for metric in every(encoded(metrics))]
    assert len(names) == len(set(names))
    assert {metric.unit for metric in every(encoded(metrics))} == {""}
    assert named(encoded(metrics), "vllm_probe_up").description


def test_values_are_of_one_kind_so_that_no_receiver_sees_a_metric_change_it(metrics):
    for metric in every(encoded(metrics)):
        if metric.WhichOneof("data") != "histogram":
            assert {point.WhichOneof("value") for point in points(metric)} == {"as_double"}


def test_a_failed_session_takes_its_values_out_of_the_data(metrics):
    assert "vllm_probe_turn_hit_ratio" in {m.name for m in every(encoded(metrics))}
    publish(metrics, failed_session())
    assert "vllm_probe_turn_hit_ratio" not in {m.name for m in every(encoded(metrics))}


def test_the_exporters_own_counters_count_since_their_target_was_added(metrics):
    request = encoded(metrics)
    for name in ("vllm_probe_sessions_total", "vllm_probe_ttft_seconds"):
        assert {each.start_time_unix_nano for each in points(named(request, name))} == {
            nanoseconds(STARTED)
        }
    reloads = points(named(request, "vllm_exporter_config_reloads_total"))
    assert {each.start_time_unix_nano for each in reloads} == {BEGAN}


def test_an_engines_counter_counts_since_it_was_first_sent_so_that_it_shows_no_jump(metrics):
    starts, name = StartTimes(), "vllm_engine_prefix_cache_queried_tokens_total"
    for now in (NOW, NOW + 10):
        (point,) = points(named(encoded(metrics, starts, now), name))
        assert point.as_double > 0
        assert (point.start_time_unix_nano, point.time_unix_nano) == (NOW, now)
    metrics.add(TargetState("local", created_time=STARTED))  # another engine of the same name
    publish(metrics, engine_view())
    (point,) = points(named(encoded(metrics, starts, NOW + 20), name))
    assert point.start_time_unix_nano == NOW + 20


def test_starts_of_targets_that_are_gone_are_forgotten(metrics):
    starts = StartTimes()
    encoded(metrics, starts)
    starts.keep(["local"])
    assert starts._first.keys() == {"local"}
    starts.keep([])
    assert not starts._first


def test_the_label_of_an_engine_with_half_a_character_can_be_sent(metrics):
    info = replace(engine_view().info, model="\ud800" + "m" * 2000)
    publish(metrics, replace(engine_view(), info=info))
    (point,) = points(named(encoded(metrics), "vllm_engine_info"))
    (model,) = [each.value.string_value for each in point.attributes if each.key == "model"]
    assert model.startswith("?m")
    assert len(model) == 1000
