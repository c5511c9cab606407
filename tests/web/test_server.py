"""The answers of the server over HTTP."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import replace

import pytest
from aiohttp import ClientSession, web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from publish_records import (
    TURNS,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    measured,
    session,
)
from samples_page import publish
from structlog.testing import capture_logs

from exporter.analysis.footprint import Footprint
from exporter.analysis.own_share import OwnShare
from exporter.errors import ExporterError
from exporter.metrics.families.discovery import DISCOVERY
from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    PROCESS,
    TARGET_FAMILIES,
)
from exporter.metrics.state.cost import Prices
from exporter.metrics.state.target import TargetState
from exporter.model.failure import Failure, FailureReason
from exporter.model.kv_events import KvEventKind, KvEventsView
from exporter.model.probe import Due, RetentionReading
from exporter.model.reuse import ReuseRule
from exporter.web.server import HttpServer

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)

RULE = ReuseRule(unit_tokens=16, dropped_blocks=0, answers_kept=True, lookahead_tokens=0)


def after_users_asked(view):
    """The second scrape."""
    more = replace(
        view.totals,
        queried_tokens=6000.0,
        hit_tokens=4500.0,
        saved_tokens=4400.0,
        external_hit_tokens=700.0,
    )
    return replace(view, snapshot=replace(view.snapshot, at=25.0), totals=more)


@pytest.fixture
def full(published):
    published.metrics.add(TargetState("local"))
    (
        published.metrics.targets["local"].cost.budget_tokens_per_hour,
        published.metrics.targets["local"].cost.prices,
    ) = 2_000_000, Prices(2.5, "EUR", 400.0)
    local = published.metrics.targets["local"]
    published.metrics.exporter.otlp.on("traces")
    local.interval_seconds, local.heartbeat_seconds = 60.0, 100.0
    local.admission_checked(None)
    local.footprint_changed(Footprint(8_000, 80_000, 8_000.0))
    local.due_at(Due.SESSION, 60.0)
    local.due_at(Due.HEARTBEAT, 100.0)
    publish(published.metrics, RetentionReading("local", 60.0, 1.0))
    published.metrics.targets["local"].own_share_changed(
        OwnShare(requests=1, settled=1, queried_tokens=900)
    )
    stored = replace(TURNS[2], external_cached_tokens=256)
    beat = replace(session(*TURNS[:2]), scenario="heartbeat", heartbeat=True)
    for result in (beat, *measured(), session(*TURNS[:2], stored), *measured()):
        published.session_finished(replace(result, reuse_rule=RULE))
    publish(published.metrics, engine_view())
    publish(published.metrics, after_users_asked(engine_view()))
    publish(published.metrics, container_view())
    counts = dict.fromkeys(KvEventKind, 0)
    published.metrics.targets["local"].kv_events = KvEventsView("tcp://e:5557", True, counts)
    published.metrics.targets["local"].loops.ran("probe:local", 5.0)
    published.metrics.exporter.web_config_in_force = True
    published.metrics.exporter.reloads.in_force(5.0)
    return published


async def metrics_page(client, accept=None, *, encoding="identity", **params):
    headers = {"Accept-Encoding": encoding} | ({} if accept is None else {"Accept": accept})
    answer = await client.get("/metrics", headers=headers, params=params, auto_decompress=False)
    assert answer.status == 200
    return answer, await answer.read()


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "text/html", ""])
async def test_metrics_are_prometheus_text_by_default(client, accept):
    answer, body = await metrics_page(client, accept)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in plain_text(body.decode())}
    expected = {
        family.name.removesuffix("_total")
        for family in TARGET_FAMILIES + EXPORTER_FAMILIES + LOOP_FAMILIES
    }
    missing = {
        "vllm_engine_prefix_cache_reported_hit_ratio",  # not of this version of vLLM
        "vllm_probe_notice",  # no notice
        "vllm_probe_model_attainable_cached_tokens",  # one model
        "vllm_probe_model_cached_tokens",
        "vllm_probe_rank_attainable_cached_tokens",  # no pinned ranks
        "vllm_probe_rank_cached_tokens",
        "vllm_probe_routed_turns",  # no replicas with pages of their own
        "vllm_engine_replica_up",
        "vllm_engine_replica_queried_tokens",
        "vllm_engine_replica_hit_tokens",
        "vllm_container_pull_done_bytes",  # no pull
        "vllm_container_pull_expected_bytes",
        *(family.name.removesuffix("_total") for family in DISCOVERY),  # no source of targets
    }
    assert expected - names == missing


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("accept", [PROMETHEUS_ACCEPT, "application/openmetrics-text"])
async def test_metrics_are_openmetrics_where_the_client_asks(client, accept):
    answer, body = await metrics_page(client, accept)
    assert answer.headers["Content-Type"].startswith(
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    families = {family.name: family for family in openmetrics(body.decode())}
    assert families["vllm_probe_sessions"].type == "counter"
    assert families["vllm_probe_ttft_seconds"].type == "histogram"


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x.y",
        "text/plain;version=;;=,,;",
        "text/plain;version=1.é",
    ],
)
async def test_an_invalid_accept_header_gets_plain_text(client, accept):
    answer, body = await metrics_page(client, accept)
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert list(plain_text(body.decode()))


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "encoding", ["gzip", "deflate, gzip;q=0.5", "GZIP", "*", "*;q=0, gzip", "gzip, identity;q=0.5"]
)
async def test_metrics_are_compressed_for_clients_that_accept_it(client, encoding):
    answer, body = await metrics_page(client, encoding=encoding)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b"vllm_probe_up" in gzip.decompress(body)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    "encoding",
    [
        "identity",
        "gzip;q=0",
        "gzip; q=0.0",
        "deflate",
        "br",
        "*, gzip;q=0",
        "gzip;q=0, *",
        "gzip;q=2",
        "identity, gzip;q=0.5",
        "*;q=0",
        "gzip;q=",
    ],
)
async def test_metrics_are_not_compressed_for_other_clients(client, encoding):
    answer, body = await metrics_page(client, encoding=encoding)
    assert "Content-Encoding" not in answer.headers
    assert b"vllm_probe_up" in body


@pytest.mark.usefixtures("full")
async def test_metrics_can_be_selected_by_name(client):
    _, body = await metrics_page(client, **{"name[]": "vllm_probe_up"})
    assert {family.name for family in plain_text(body.decode())} == {"vllm_probe_up"}
    _, body = await metrics_page(client, **{"name[]": "no_such_name"})
    assert body == b""


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "/-/ready", "/api/v1/sessions"])
async def test_a_head_request_gets_the_headers_alone(client, path):
    get = await client.get(path)
    head = await client.head(path)
    assert head.status == get.status == 200
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert await head.read() == b""


async def test_health_needs_nothing_but_the_event_loop(client):
    answer = await client.get("/-/healthy")
    assert (answer.status, await answer.text()) == (200, "healthy\n")


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (FailureReason.CONNECTION_REFUSED, 503),
        (FailureReason.FIRST_TOKEN_TIMEOUT, 503),
        (FailureReason.UNAUTHORIZED, 200),
        (FailureReason.OVERLOADED, 200),
    ],
)
async def test_a_target_is_unhealthy_while_its_engine_serves_nothing(
    client, published, reason, status
):
    published.metrics.add(TargetState("local"))

    async def health():
        answer = await client.get("/-/healthy?target=local")
        return answer.status, await answer.text()

    assert await health() == (200, "local: not_probed\n")
    failed = replace(failed_session(target="local"), failure=Failure(reason, ""))
    publish(published.metrics, failed)
    said = reason if status == 503 else "failing"
    assert await health() == (status, f"local: {said}\n")
    publish(published.metrics, session(target="local"))
    assert (await health())[0] == 200


async def test_a_target_whose_cache_is_wedged_is_unhealthy(client, published):
    state = TargetState("local")
    published.metrics.add(state)
    publish(published.metrics, session(target="local"))
    state.wedged = True
    answer = await client.get("/-/healthy?target=local")
    assert (answer.status, await answer.text()) == (503, "local: wedged\n")


async def test_the_health_of_a_target_that_does_not_exist_is_a_clear_error(client):
    answer = await client.get("/-/healthy?target=nobody")
    assert answer.status == 400
    assert "there is no target 'nobody'" in await answer.text()


async def test_ready_once_every_target_has_been_looked_at(client, published):
    async def ready():
        answer = await client.get("/-/ready")
        return answer.status, await answer.text()

    for name in ("scraped", "probed", "late"):
        published.metrics.add(TargetState(name))
    publish(published.metrics, failed_engine_view(target="scraped"))
    publish(published.metrics, failed_session(target="probed"))
    assert await ready() == (503, "not looked at yet: late\n")
    publish(published.metrics, engine_view(target="late"))
    assert await ready() == (200, "ready\n")
    published.metrics.add(TargetState("found later"))
    assert await ready() == (200, "ready\n"), "the pages of all others are wanted meanwhile"


async def test_a_target_with_a_container_is_ready_once_that_was_inspected(client, published):
    published.metrics.add(TargetState("local", mode="attached"))
    publish(published.metrics, engine_view())
    assert (await client.get("/-/ready")).status == 503
    publish(published.metrics, container_view())
    assert (await client.get("/-/ready")).status == 200


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/-/", "/%00", "/../etc/passwd"])
async def test_an_unknown_path_is_a_short_404(client, path):
    answer = await client.get(path)
    assert (answer.status, await answer.text()) == (404, "404 Not Found\n")


async def test_an_unknown_path_of_the_api_is_a_404_in_json(client):
    answer = await client.get("/api/v1/nothing")
    assert (answer.status, await answer.json()) == (404, {"error": "Not Found"})


async def test_an_unsupported_method_is_refused_with_the_supported_ones(client):
    answer = await client.post("/metrics", data=b"x")
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/ready", "/nothing", "/api/v1/targets"])
async def test_every_answer_has_security_headers_and_none_shows_the_servers_version(client, path):
    headers = (await client.get(path)).headers
    assert "Server" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_an_unexpected_exception_is_logged_with_its_trace_and_not_shown(client, monkeypatch):
    def broken():
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(PROCESS, "collect", broken)
    with capture_logs() as logged:
        answer = await client.get("/metrics")
    assert (answer.status, await answer.text()) == (500, "500 Internal Server Error\n")
    [line] = logged
    assert (line["event"], line["path"]) == ("http.failed", "/metrics")
    assert line["exc_info"]
    assert (await client.get("/-/healthy")).status == 200


@pytest.fixture
async def server(published):
    server = HttpServer(published.app)
    await server.start("127.0.0.1", 0)
    yield server
    await server.stop()


async def test_the_server_listens_at_the_given_address(server):
    async with (
        ClientSession() as http,
        http.get(f"http://127.0.0.1:{server.port}/-/healthy") as answer,
    ):
        assert answer.status == 200


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", None, "another program uses that port"),
        ("192.0.2.1", 9477, "this machine does not have that address"),
        ("no.such.host.invalid", 9477, r"cannot listen on no\.such\.host\.invalid:9477"),
        ("2001:db8::1", 9477, r"cannot listen on \[2001:db8::1\]:9477"),
    ],
)
async def test_an_unusable_address_is_one_clear_error(server, host, port, words):
    other = HttpServer(web.Application())
    with pytest.raises(ExporterError, match=words) as caught:
        await other.start(host, server.port if port is None else port)
    assert "\n" not in str(caught.value)
    await other.stop()


async def test_the_server_stops_although_a_client_stays_connected(server):
    port = server.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    async with asyncio.timeout(30):
        await server.stop()
        await reader.read()  # until the server ends the connection
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def stopped_under_a_request(grace_seconds: float, answer: asyncio.Event) -> bytes:
    """The bytes that a client gets whose request runs until `answer` is set, while the server stops."""
    began = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        began.set()
        await answer.wait()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", slow)
    server = HttpServer(app, grace_seconds=grace_seconds)
    await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await began.wait()
    async with asyncio.timeout(30):
        stopping = asyncio.create_task(server.stop())
        if grace_seconds > 1:
            answer.set()
        await stopping
        said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


async def test_a_running_request_has_the_grace_period_to_end():
    assert (await stopped_under_a_request(60, asyncio.Event())).endswith(b"done")


async def test_a_request_longer_than_the_grace_period_is_cut():
    assert await stopped_under_a_request(0.05, asyncio.Event()) == b""
