"""Metrics and spans over HTTP to a receiver that takes them, refuses them, hangs or is away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from dataclasses import replace

import certifi
import pytest
from otlp_receiver import attributes, samples, serving, spans
from publish_records import TURNS, engine_view, session
from samples_page import publish
from structlog.testing import capture_logs
from web_files import CERTIFICATES

from exporter.clock import SystemClock
from exporter.config import OtlpSettings
from exporter.loops import endless
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.otlp import push as push_module
from exporter.otlp.push import MOST_SESSIONS, OtlpPush


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(push_module, "_TRACES_SECONDS", 0.1)
    monkeypatch.setattr(push_module, "_FIRST_SECONDS", 0.05)
    for name in ("ENDPOINT", "HEADERS", "COMPRESSION", "TIMEOUT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


@pytest.fixture
def metrics():
    made = Metrics()
    made.add(
        TargetState(
            "local", url="http://gpu-3:8000", created_time=1000.0, labels={"team": "search"}
        )
    )
    for record in (session(*TURNS), engine_view()):
        publish(made, record)
    return made


def settings(receiver, **more):
    options = {"metrics_enabled": True, "traces_enabled": True, "endpoint": receiver.url}
    return OtlpSettings(**{**options, "interval_seconds": 1.0, "timeout_seconds": 2.0, **more})


@contextlib.asynccontextmanager
async def pushing(metrics, given, grace=1.0):
    push = OtlpPush(given, metrics, SystemClock(), instance="host:9477")
    async with asyncio.TaskGroup() as group:
        tasks = push.start(lambda beat, loop: group.create_task(endless(beat, loop)))
        try:
            yield push
        finally:
            for task in tasks:
                task.cancel()
            began = time.monotonic()
            await push.close(grace)
            push.closed_after = time.monotonic() - began


def timed(result=None):
    """A session whose turns have times."""
    result = result or session(*TURNS)
    turns = tuple(replace(one, sent_at=10.0 + one.index) for one in result.turns)
    return replace(result, turns=turns, started_at=10.0)


def exports(metrics, signal, outcome):
    return metrics.exporter.otlp.exports[signal, outcome]


async def test_metrics_arrive_with_their_resource(receiver, metrics):
    async with pushing(metrics, settings(receiver)):
        await receiver.until("metrics", lambda: receiver.metrics)
    request = receiver.metrics[0]
    found = samples(request)
    assert found["vllm_probe_up", (("target", "local"), ("team", "search"))] == 1
    resource = attributes(request.resource_metrics[0].resource)
    assert resource["service.name"] == "vllm-cache-exporter"
    assert resource["service.instance.id"] == "host:9477"
    assert resource["service.version"]
    assert exports(metrics, "metrics", "success") >= 1
    assert exports(metrics, "metrics", "failure") == 0


async def test_a_session_arrives_as_a_trace(receiver, metrics):
    async with pushing(metrics, settings(receiver)) as push:
        push.session_finished(timed())
        await receiver.until("spans", lambda: receiver.traces)
    assert len(spans(receiver)) == 1 + len(TURNS)
    for span in spans(receiver):
        assert attributes(span)["vllm_cache_exporter.label.team"] == "search"
    assert attributes(spans(receiver)[1])["server.address"] == "gpu-3"


async def test_a_signal_that_is_off_is_not_sent(receiver, metrics):
    given = settings(receiver, metrics_enabled=False)
    async with pushing(metrics, given) as push:
        push.session_finished(timed())
        await receiver.until("spans", lambda: receiver.traces)
    assert not receiver.metrics
    receiver.traces.clear()
    async with pushing(metrics, settings(receiver, traces_enabled=False)) as push:
        push.session_finished(timed())
        assert not push._queue, "what is never sent is not kept"
        await receiver.until("metrics", lambda: receiver.metrics)
    assert not receiver.traces


async def test_requests_are_compressed_unless_a_setting_or_the_standard_variable_says_no(
    receiver, metrics, monkeypatch
):
    async with pushing(metrics, settings(receiver)):
        await receiver.until("metrics", lambda: receiver.metrics)
    assert receiver.headers[-1]["content-encoding"] == "gzip"
    assert receiver.headers[-1]["content-type"] == "application/x-protobuf"
    async with pushing(metrics, settings(receiver, compression="none")):
        await receiver.until("more metrics", lambda: len(receiver.metrics) > 2)
    assert "content-encoding" not in receiver.headers[-1]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    receiver.headers.clear()
    async with pushing(metrics, settings(receiver)):
        await receiver.until("more metrics", lambda: receiver.headers)
    assert "content-encoding" not in receiver.headers[0]


async def test_headers_are_sent_and_those_of_the_standard_variable_too(
    receiver, metrics, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=red,authorization=Basic%20x")
    given = settings(receiver, headers={"Authorization": "Bearer canary"})
    async with pushing(metrics, given) as push:
        push.session_finished(timed())
        await receiver.until("both", lambda: receiver.metrics and receiver.traces)
    for headers in receiver.headers:
        assert headers["authorization"] == "Bearer canary"
        assert headers["x-tenant"] == "red"


async def test_the_standard_variables_give_the_endpoint_and_the_resource(
    receiver, metrics, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.name=x")
    async with pushing(metrics, settings(receiver, endpoint=None)):
        await receiver.until("metrics", lambda: receiver.metrics)
    resource = attributes(receiver.metrics[0].resource_metrics[0].resource)
    assert resource["deployment.environment"] == "prod"
    assert resource["service.name"] == "x"
    assert resource["service.instance.id"] == "host:9477"


async def test_a_receiver_that_refuses_the_key_costs_one_line_and_gets_the_spans_later(
    receiver, metrics, caplog
):
    receiver.status = 401
    with capture_logs() as logged:
        async with pushing(metrics, settings(receiver)) as push:
            push.session_finished(timed())
            await receiver.until(
                "three refusals", lambda: exports(metrics, "traces", "failure") >= 3
            )
            assert metrics.exporter.otlp.dropped_sessions == 0
            receiver.status = 200
            await receiver.until("spans", lambda: receiver.traces)
    lines = [line for line in logged if line.get("signal") == "traces"]
    assert [line["event"] for line in lines] == ["otlp.export_failed", "otlp.recovered"]
    assert lines[0]["reason"] == "http_401"
    assert "401" in lines[0]["detail"]
    assert not [each for each in caplog.records if each.name.startswith("opentelemetry")]
    assert metrics.exporter.loops.failures == {"otlp_metrics": 0, "otlp_traces": 0}


async def test_what_is_sent_again_has_the_same_ids(receiver, metrics):
    receiver.status = 401
    async with pushing(metrics, settings(receiver, metrics_enabled=False)) as push:
        push.session_finished(timed())
        await receiver.until("two refusals", lambda: len(receiver.refused) >= 2)
        receiver.status = 200
        await receiver.until("spans", lambda: receiver.traces)
    assert {receiver.traces[0].SerializeToString()} == set(receiver.refused)


async def test_a_receiver_that_is_away_costs_one_line_and_no_session(receiver, metrics):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = replace(receiver, url=f"http://127.0.0.1:{port}")
    with capture_logs() as logged:
        async with pushing(metrics, settings(away, timeout_seconds=0.2)) as push:
            push.session_finished(timed())
            await receiver.until("failures", lambda: exports(metrics, "traces", "failure") >= 2)
            assert len(push._queue) == 1
    lines = [line for line in logged if line.get("signal") == "traces"]
    assert [line["event"] for line in lines] == ["otlp.export_failed"]
    assert lines[0]["reason"] == "unreachable"
    assert "Connection refused" in lines[0]["detail"]
    assert lines[0]["detail"].startswith(f"{away.url}/v1/traces: ")


async def test_spans_that_the_receiver_refuses_for_good_are_dropped_counted_and_told(
    receiver, metrics
):
    receiver.status = 400
    with capture_logs() as logged:
        async with pushing(metrics, settings(receiver)) as push:
            push.session_finished(timed())
            await receiver.until("the drop", lambda: metrics.exporter.otlp.dropped_sessions)
            asked = receiver.asked
            assert not push._queue
            receiver.status = 200
            push.session_finished(timed())
            await receiver.until("later spans", lambda: receiver.traces)
    assert metrics.exporter.otlp.dropped_sessions == 1
    (line,) = [line for line in logged if line["event"] == "otlp.sessions_dropped"]
    assert "400" in line["meaning"]
    assert asked >= 1
    assert len(spans(receiver)) == 1 + len(TURNS), "only the later session"


@pytest.fixture
async def tls_receiver():
    """It asks for a certificate of the client."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CERTIFICATES / "ca.pem")
    context.load_cert_chain(CERTIFICATES / "first.pem", CERTIFICATES / "first.key")
    context.verify_mode = ssl.CERT_REQUIRED
    async with serving(context) as made:
        yield made


async def test_certificates_are_checked_and_sent(tls_receiver, metrics, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())  # requests would prefer it
    known = {
        "ca_file": CERTIFICATES / "ca.pem",
        "client_certificate_file": CERTIFICATES / "client.pem",
        "client_key_file": CERTIFICATES / "client.key",
    }
    async with pushing(metrics, settings(tls_receiver, **known)) as push:
        push.session_finished(timed())
        await tls_receiver.until("both", lambda: tls_receiver.metrics and tls_receiver.traces)
    tls_receiver.metrics.clear()
    for missing in known:
        some = {key: file for key, file in known.items() if key != missing}
        if missing == "client_certificate_file":
            del some["client_key_file"]
        failures = exports(metrics, "metrics", "failure")
        given = settings(tls_receiver, traces_enabled=False, timeout_seconds=0.2, **some)
        async with pushing(metrics, given):
            await tls_receiver.until(
                f"a failure without {missing}",
                lambda before=failures: exports(metrics, "metrics", "failure") > before,
            )
    assert not tls_receiver.metrics


async def test_what_a_receiver_rejects_of_a_request_is_told_and_not_sent_again(receiver, metrics):
    receiver.rejected = 3
    with capture_logs() as logged:
        async with pushing(metrics, settings(receiver)) as push:
            push.session_finished(timed())
            await receiver.until("the drop", lambda: metrics.exporter.otlp.dropped_sessions)
            await receiver.until("metrics", lambda: exports(metrics, "metrics", "failure"))
            receiver.rejected = 0
    assert len(receiver.traces) == 1
    told = {line["signal"]: line for line in logged if line["event"] == "otlp.export_failed"}
    assert told["metrics"]["reason"] == told["traces"]["reason"] == "rejected"
    assert told["metrics"]["detail"].endswith("the receiver rejected 3 data points: too old")
    assert told["traces"]["detail"].endswith("the receiver rejected 3 spans: too old")


async def test_an_answer_that_is_not_the_protocols_own_is_a_success_if_its_status_is(
    receiver, metrics
):
    receiver.body = b"<html>accepted</html>"
    async with pushing(metrics, settings(receiver)):
        await receiver.until("success", lambda: exports(metrics, "metrics", "success"))
    assert exports(metrics, "metrics", "failure") == 0


async def test_a_redirect_is_no_success(receiver, metrics):
    receiver.status = 302
    async with pushing(metrics, settings(receiver)):
        await receiver.until("failure", lambda: exports(metrics, "metrics", "failure"))
    assert exports(metrics, "metrics", "success") == 0


async def test_the_oldest_sessions_are_dropped_when_too_many_wait(receiver, metrics):
    receiver.status = 503
    given = settings(receiver, timeout_seconds=0.1)
    with capture_logs() as logged:
        async with pushing(metrics, given) as push:
            for number in range(MOST_SESSIONS + 3):
                push.session_finished(replace(timed(), extra_tokens=number))
            assert len(push._queue) == MOST_SESSIONS
            assert push._queue[0].result.extra_tokens == 3
            receiver.status = 200
            await receiver.until("all spans", lambda: not push._queue)
    assert metrics.exporter.otlp.dropped_sessions == 3
    assert [line["event"] for line in logged].count("otlp.sessions_dropped") == 1
    sent = [span for span in spans(receiver) if not span.parent_span_id]
    assert len({span.trace_id for span in sent}) == MOST_SESSIONS
    assert len(sent) == MOST_SESSIONS, "none twice"


async def test_what_waits_is_sent_when_the_daemon_stops(receiver, metrics, monkeypatch):
    monkeypatch.setattr(push_module, "_TRACES_SECONDS", 600.0)
    monkeypatch.setattr(push_module, "_FIRST_SECONDS", 600.0)
    async with pushing(metrics, settings(receiver, interval_seconds=600)) as push:
        push.session_finished(timed())
        await asyncio.sleep(0.1)
        assert not receiver.asked
    assert len(receiver.traces) == len(receiver.metrics) == 1


async def test_a_send_that_is_under_way_when_the_daemon_stops_is_not_repeated(receiver, metrics):
    receiver.delay = 0.5
    async with pushing(metrics, settings(receiver, metrics_enabled=False), grace=5.0) as push:
        push.session_finished(timed())
        await receiver.until("the request", lambda: receiver.asked)
    assert len(receiver.traces) == 1


async def test_a_receiver_that_hangs_does_not_delay_the_end_or_the_event_loop(receiver, metrics):
    receiver.delay = 60
    given = settings(receiver, timeout_seconds=60)
    with capture_logs() as logged:
        async with pushing(metrics, given, grace=0.3) as push:
            push.session_finished(timed())
            await receiver.until("both requests", lambda: receiver.asked >= 2)
            began = time.monotonic()
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 0.5
    assert push.closed_after < 1.5
    assert logged[-1]["event"] == "otlp.flush_incomplete"
    assert all(each.daemon for each in threading.enumerate() if each.name.startswith("otlp"))


async def test_no_provider_or_signal_handler_becomes_global(receiver, metrics):
    import signal  # noqa: PLC0415 - only here

    from opentelemetry import metrics as metrics_api  # noqa: PLC0415
    from opentelemetry import trace as trace_api  # noqa: PLC0415

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    async with pushing(metrics, settings(receiver)):
        await receiver.until("metrics", lambda: receiver.metrics)
    assert trace_api._TRACER_PROVIDER is None
    assert metrics_api._internal._METER_PROVIDER is None
    assert {number: signal.getsignal(number) for number in before} == before


async def test_a_fleet_is_sent_in_parts_that_receivers_take(receiver):
    fleet = Metrics(whole_page_targets=1000)
    for number in range(60):
        name = f"t{number}"
        fleet.add(TargetState(name, created_time=1000.0))
        publish(fleet, session(*TURNS, target=name))
        publish(fleet, engine_view(target=name))
    async with pushing(fleet, settings(receiver, traces_enabled=False, interval_seconds=600)):
        await receiver.until("the fleet", lambda: exports(fleet, "metrics", "success") == 1)
        parts = list(receiver.metrics)
    assert len(parts) > 1
    ups = [key for part in parts for key in samples(part) if key[0] == "vllm_probe_up"]
    assert len(ups) == len(set(ups)) == 60
    assert max(part.ByteSize() for part in parts) < 4 << 20
