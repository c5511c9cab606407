"""A target that is removed is gone everywhere, and what is said of it later brings nothing back."""

from __future__ import annotations

import pytest
from prometheus_client.exposition import generate_latest
from publish_records import TURNS, container_view, engine_view, failed_session, session

from exporter.metrics.sink import TARGET_LOOPS
from exporter.metrics.state.cost import Prices
from exporter.model.probe import IsolationReading, RetentionReading

LATE = {
    "session": lambda m: m.session_finished(session(*TURNS, target="gone")),
    "failed session": lambda m: m.session_finished(failed_session(target="gone")),
    "scrape": lambda m: m.engine_scraped(engine_view(target="gone")),
    "container": lambda m: m.container_changed(container_view(target="gone")),
    "budget": lambda m: m.target_budget("gone", 1000, Prices(2.5, "EUR", 400.0)),
    "gate": lambda m: m.gate_looked("gone", None),
    "salts": lambda m: m.salts_tried(IsolationReading("gone", leaked=True, wedged=None)),
    "retention": lambda m: m.retention_read(RetentionReading("gone", 60.0, 1.0)),
    "tokens": lambda m: m.consumed("gone", 10),
} | {
    f"{kind}'s loop {what}": says
    for kind in sorted(TARGET_LOOPS)
    for what, says in (
        ("ran", lambda m, loop=f"{kind}:gone": m.loop_ran(loop, 5.0)),
        ("failed", lambda m, loop=f"{kind}:gone": m.loop_failed(loop)),
    )
}


@pytest.fixture
def page(published):
    return lambda: generate_latest(published.registry).decode()


@pytest.fixture
def metrics(published):
    published.metrics.target_added("local")
    published.metrics.target_added("gone")
    published.metrics.loop_ran("web_config", 5.0)
    return published.metrics


def test_a_removed_target_leaves_no_series_and_no_loop(metrics, page):
    for says in LATE.values():
        says(metrics)
    assert page().count("gone") > len(LATE)
    metrics.target_removed("gone")
    assert "gone" not in page()
    assert 'vllm_probe_sessions_total{target="local"} 0.0' in page()
    assert 'vllm_exporter_loop_failures_total{loop="web_config"} 0.0' in page()


@pytest.mark.parametrize("says", LATE.values(), ids=LATE)
def test_what_is_said_of_a_removed_target_does_not_bring_it_back(metrics, page, says):
    metrics.target_removed("gone")
    says(metrics)
    assert "gone" not in page()
    assert list(metrics.targets) == ["local"]


def test_a_target_whose_name_begins_as_that_of_another_keeps_its_loops(metrics, page):
    metrics.target_added("gone:8000")
    metrics.loop_ran("scrape:gone:8000", 5.0)
    metrics.target_removed("gone")
    assert 'vllm_exporter_loop_failures_total{loop="scrape:gone:8000"} 0.0' in page()
    metrics.target_removed("gone:8000")
    assert "scrape:" not in page()


def test_removing_what_is_not_there_changes_nothing(metrics, page):
    before = [line for line in page().splitlines() if line.startswith("vllm")]
    metrics.target_removed("never there")
    assert [line for line in page().splitlines() if line.startswith("vllm")] == before


def test_a_target_that_comes_back_begins_at_zero(metrics, page):
    LATE["session"](metrics)
    metrics.target_removed("gone")
    metrics.target_added("gone")
    assert 'vllm_probe_sessions_total{target="gone"} 0.0' in page()
    assert 'vllm_probe_up{target="gone"}' not in page()


async def test_the_status_page_the_api_and_the_picture_follow(published, metrics, client):
    published.session_finished(session(*TURNS, target="gone"))
    assert (await client.get("/?target=gone")).status == 200
    metrics.target_removed("gone")
    published.history.forget("gone")
    assert "gone" not in await (await client.get("/")).text()
    assert (await client.get("/?target=gone")).status == 404
    assert (await client.get("/api/v1/sessions?target=gone")).status == 400
    targets = (await (await client.get("/api/v1/targets")).json())["targets"]
    assert [each["target"] for each in targets] == ["local"]
    assert (await (await client.get("/api/v1/sessions")).json())["sessions"] == []
