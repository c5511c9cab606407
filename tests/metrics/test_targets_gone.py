"""A removed target is gone everywhere, also when late results arrive."""

from __future__ import annotations

import pytest
from publish_records import TURNS, container_view, engine_view, failed_session, session
from samples_page import page_text

from exporter.analysis.own_share import OwnShare
from exporter.metrics.state.target import TargetState
from exporter.model.probe import IsolationReading, RetentionReading

LATE = {
    "session": lambda t: t.session_finished(session(*TURNS, target="gone")),
    "failed session": lambda t: t.session_finished(failed_session(target="gone")),
    "scrape": lambda t: t.engine_scraped(engine_view(target="gone")),
    "container": lambda t: t.container_changed(container_view(target="gone")),
    "admission": lambda t: t.admission_checked(None),
    "isolation": lambda t: t.isolation_tested(IsolationReading("gone", leaked=True, wedged=None)),
    "retention": lambda t: t.retention_measured(RetentionReading("gone", 60.0, 1.0)),
    "tokens": lambda t: t.tokens_consumed(10),
    "own share": lambda t: t.own_share_changed(OwnShare(requests=1)),
    "a loop ran": lambda t: t.loops.ran("scrape:gone", 5.0),
    "a loop failed": lambda t: t.loops.failed("scrape:gone"),
}


@pytest.fixture
def page(published):
    return lambda: page_text(published.metrics)


@pytest.fixture
def metrics(published):
    published.metrics.add(TargetState("local"))
    published.metrics.exporter.loops.ran("web_config", 5.0)
    return published.metrics


@pytest.fixture
def gone(metrics):
    target = TargetState("gone")
    metrics.add(target)
    return target


def test_a_removed_target_leaves_no_series_and_no_loop(metrics, gone, page):
    for says in LATE.values():
        says(gone)
    assert page().count("gone") > len(LATE)
    metrics.remove("gone")
    assert "gone" not in page()
    assert 'vllm_probe_sessions_total{target="local"} 0.0' in page()
    assert 'vllm_exporter_loop_failures_total{loop="web_config"} 0.0' in page()


@pytest.mark.parametrize("says", LATE.values(), ids=LATE)
def test_late_results_of_a_removed_target_are_not_shown(metrics, gone, page, says):
    metrics.remove("gone")
    says(gone)
    assert "gone" not in page()
    assert list(metrics.targets) == ["local"]


def test_removing_an_unknown_target_changes_nothing(metrics, page):
    before = [line for line in page().splitlines() if line.startswith("vllm")]
    metrics.remove("never there")
    assert [line for line in page().splitlines() if line.startswith("vllm")] == before


def test_a_target_that_comes_back_begins_at_zero(metrics, gone, page):
    LATE["session"](gone)
    metrics.remove("gone")
    metrics.add(TargetState("gone"))
    assert 'vllm_probe_sessions_total{target="gone"} 0.0' in page()
    assert 'vllm_probe_up{target="gone"}' not in page()


async def test_the_status_page_the_api_and_the_picture_follow(published, metrics, client):
    published.session_finished(session(*TURNS, target="gone"))
    assert (await client.get("/?target=gone")).status == 200
    metrics.remove("gone")
    published.history.forget("gone")
    assert "gone" not in await (await client.get("/")).text()
    assert (await client.get("/?target=gone")).status == 404
    assert (await client.get("/api/v1/sessions?target=gone")).status == 400
    targets = (await (await client.get("/api/v1/targets")).json())["targets"]
    assert [each["target"] for each in targets] == ["local"]
    assert (await (await client.get("/api/v1/sessions")).json())["sessions"] == []
