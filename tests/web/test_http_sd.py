"""The list of pages for Prometheus."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from fake_clock import FakeClock
from publish_records import TURNS, session

from exporter.metrics.state.target import TargetState
from exporter.web.server import HttpServer, create_app


def group(address, name):
    return {
        "targets": [address],
        "labels": {"__metrics_path__": "/metrics", "__param_target": name, "target": name},
    }


async def test_each_target_is_a_page_of_this_exporter(client, published):
    for name in ("one", "two"):
        published.metrics.add(TargetState(name))
    answer = await client.get("/api/v1/http-sd", headers={"Host": "exporter.example:9477"})
    assert answer.status == 200
    assert answer.content_type == "application/json"
    groups = await answer.json()
    assert groups == [group("exporter.example:9477", name) for name in ("one", "two")]
    published.metrics.remove("one")
    assert len(await (await client.get("/api/v1/http-sd")).json()) == 1


async def test_the_pages_that_are_listed_are_those_of_the_targets(published):
    published.session_finished(session(*TURNS, target="one"))
    server = HttpServer(published.app)
    await server.start("127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.port}"
    async with ClientSession() as http:
        async with http.get(f"{base}/api/v1/http-sd") as answer:
            [found] = await answer.json()
        labels = found["labels"]
        url = f"http://{found['targets'][0]}{labels['__metrics_path__']}"
        async with http.get(url, params={"target": labels["__param_target"]}) as answer:
            assert 'vllm_probe_up{target="one"} 1.0' in await answer.text()
    await server.stop()


async def test_without_targets_there_is_an_empty_list(client):
    assert await (await client.get("/api/v1/http-sd")).json() == []


@pytest.fixture
async def told(published):
    """An exporter with a configured address for Prometheus."""
    app = create_app(
        metrics=published.metrics,
        history=published.history,
        clock=FakeClock(),
        http_sd_address="exporter.example:80",
    )
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_a_configured_address_overrides_that_of_the_request(told, published):
    published.metrics.add(TargetState("one"))
    answer = await told.get("/api/v1/http-sd")
    assert await answer.json() == [group("exporter.example:80", "one")]


async def test_a_request_without_a_host_names_the_setting_to_use(published):
    server = HttpServer(published.app)
    await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /api/v1/http-sd HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await server.stop()
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"set metrics.http_sd_address" in answer


async def test_it_takes_no_parameters(client):
    answer = await client.get("/api/v1/http-sd?target=one")
    assert (answer.status, await answer.json()) == (
        400,
        {"error": "target: unknown parameter; allowed: none"},
    )
