"""`GET /probe` over HTTP: what it asks the daemon for, and what it answers."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer
from fake_clock import FakeClock
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from publish_records import STARTED, TURNS, failed_session, session

from exporter.metrics.history import History
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.on_demand import IN_PROGRESS, OnDemandAnswer, OnDemandOutcome
from exporter.model.probe import PauseReason
from exporter.scenario.library import NoSuchScenarioError
from exporter.web.on_demand import answer as answers
from exporter.web.on_demand.route import routes
from exporter.web.server import HttpServer, create_app

FINISHED = OnDemandAnswer("local", OnDemandOutcome.FINISHED, session=session(*TURNS))
REFUSED = OnDemandAnswer("local", OnDemandOutcome.REFUSED, PauseReason.BUDGET, retry_seconds=89.2)
TIMEOUT = "X-Prometheus-Scrape-Timeout-Seconds"


class Daemon:
    """Answers with `answer`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer = FINISHED
        self.asked = []
        self.began, self.ended = asyncio.Event(), asyncio.Event()
        self.hangs = False

    async def play(self, target, scenario, timeout_seconds):
        self.asked.append((target, scenario, timeout_seconds))
        if scenario == "unheard":
            raise NoSuchScenarioError("scenario: there is no scenario 'unheard'; there are: x")
        try:
            self.began.set()
            if self.hangs:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.set()
            raise
        return self.answer


@pytest.fixture
def daemon():
    return Daemon()


def app_of(play, **labels):
    metrics = Metrics()
    metrics.add(TargetState("local", labels=labels))
    app = create_app(metrics=metrics, history=History(), clock=FakeClock(unix=STARTED))
    app.add_routes(routes(metrics, play, lambda result: f"described: {len(result.turns)} turns\n"))
    return app


@pytest.fixture
async def client(daemon):
    async with TestClient(TestServer(app_of(daemon.play))) as client:
        yield client


def values(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in plain_text(text)
        for sample in family.samples
    }


async def test_a_session_is_answered_in_the_names_of_the_targets_own_page(client):
    answer = await client.get("/probe", params={"target": "local"})
    assert answer.status == 200
    found = values(await answer.text())
    at = ("target", "local")
    assert found["vllm_probe_up", at] == 1
    outcome = (("outcome", "finished"), ("reason", ""), at)
    assert found["vllm_probe_on_demand", *outcome] == 1
    turns = [key for key in found if key[0] == "vllm_probe_turn_hit_ratio"]
    assert len(turns) == len(TURNS)
    assert not [key for key in found if key[0].endswith(("_total", "_bucket"))], "one session only"


async def test_the_labels_of_the_target_are_on_every_series(daemon):
    async with TestClient(TestServer(app_of(daemon.play, team="search"))) as client:
        found = values(await (await client.get("/probe?target=local")).text())
    assert found
    assert all(dict(key[1:])["team"] == "search" for key in found)


async def test_a_failed_session_has_no_value_of_turns_and_says_why(client, daemon):
    failed = failed_session()
    daemon.answer = OnDemandAnswer(
        "local", OnDemandOutcome.FAILED, failed.failure.reason, session=failed
    )
    found = values(await (await client.get("/probe?target=local")).text())
    assert found["vllm_probe_up", ("target", "local")] == 0
    reasons = [dict(key[1:])["reason"] for key in found if key[0] == "vllm_probe_on_demand"]
    assert reasons == [failed.failure.reason]
    assert not [key for key in found if key[0].startswith("vllm_probe_turn_")]


async def test_a_refused_session_is_no_failure_of_the_engine_or_of_the_scrape(client, daemon):
    daemon.answer = REFUSED
    answer = await client.get("/probe?target=local")
    assert (answer.status, answer.headers["Retry-After"]) == (200, "90")
    found = values(await answer.text())
    outcome = (("outcome", "refused"), ("reason", "budget"), ("target", "local"))
    assert found == {("vllm_probe_on_demand", *outcome): 1}


async def test_a_client_that_accepts_openmetrics_gets_it(client):
    headers = {"Accept": "application/openmetrics-text;version=1.0.0"}
    answer = await client.get("/probe?target=local", headers=headers)
    assert answer.content_type == "application/openmetrics-text"
    names = {family.name for family in openmetrics(await answer.text())}
    assert {"vllm_probe_up", "vllm_probe_on_demand"} <= names


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 120.0), ("10", 9.5), ("15.000000", 14.5), ("0.4", 0.2)]
)
async def test_the_session_may_take_the_scrapers_time_less_that_of_the_answer(
    client, daemon, header, seconds
):
    headers = {} if header is None else {TIMEOUT: header}
    await client.get("/probe?target=local&scenario=tool-trace", headers=headers)
    assert daemon.asked == [("local", "tool-trace", seconds)]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("", 400, "target: is required; there are: local"),
        ("target=", 400, "target: is empty"),
        ("target=http://169.254.169.254/", 404, "there is no target"),
        ("target=local&target=local", 400, "given more than once"),
        ("target=local&scenario=unheard", 400, "there is no scenario 'unheard'"),
        ("target=local&debug=yes", 400, "'yes' is not true or false"),
        ("target=local&module=http_2xx", 400, "module: unknown parameter"),
    ],
)
async def test_a_wrong_parameter_is_an_error_that_says_what_is_allowed(
    client, query, status, words
):
    answer = await client.get(f"/probe?{query}")
    assert answer.status == status
    assert words in await answer.text()


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
async def test_a_timeout_that_is_no_number_above_0_is_an_error(client, daemon, given):
    answer = await client.get("/probe?target=local", headers={TIMEOUT: given})
    assert answer.status == 400
    assert daemon.asked == []


@pytest.mark.parametrize("debug", ["true", "false"])
async def test_debug_answers_with_a_text_about_the_session(client, debug):
    text = await (await client.get(f"/probe?target=local&debug={debug}")).text()
    assert (text == f"described: {len(TURNS)} turns\n") == (debug == "true")


async def test_debug_of_a_refused_session_is_a_429_with_the_limit_and_the_time(client, daemon):
    daemon.answer = REFUSED
    answer = await client.get("/probe?target=local&debug=true")
    assert (answer.status, answer.headers["Retry-After"]) == (429, "90")
    assert await answer.text() == (
        "local: no session was played: the token budget is used up for now "
        "(probe.tokens_per_hour); try again in 89 s\n"
    )


@pytest.mark.parametrize("reason", [*PauseReason, IN_PROGRESS])
def test_every_reason_of_a_refusal_has_words(reason):
    if reason is not PauseReason.QUIET:  # does not refuse a session on demand
        text = answers.refusal(OnDemandAnswer("local", OnDemandOutcome.REFUSED, reason))
        assert text != f"local: no session was played: {reason}\n"


async def test_a_head_request_plays_no_session(client, daemon):
    assert (await client.head("/probe?target=local")).status == 405
    assert daemon.asked == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_cannot_make_a_browser_start_one(client, daemon, site):
    answer = await client.get("/probe?target=local", headers={"Sec-Fetch-Site": site})
    assert answer.status == 403
    assert daemon.asked == []


async def test_where_it_is_off_it_is_403_and_says_what_to_set():
    async with TestClient(TestServer(app_of(None))) as client:
        answer = await client.get("/probe?target=local")
        assert answer.status == 403
        assert "web_probe_enabled = true" in await answer.text()


async def test_a_client_that_hangs_up_ends_the_session(daemon):
    daemon.hangs = True
    server = HttpServer(app_of(daemon.play))
    await server.start("127.0.0.1", 0)
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /probe?target=local HTTP/1.1\r\nHost: x\r\n\r\n")
        await writer.drain()
        await asyncio.wait_for(daemon.began.wait(), 10)
        assert not daemon.ended.is_set()
        writer.close()
        await asyncio.wait_for(daemon.ended.wait(), 10)
    finally:
        await server.stop()
