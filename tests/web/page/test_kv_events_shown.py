"""What the page and /metrics show of the subscription to KV events."""

from __future__ import annotations

import html
import re

import pytest
from publish_records import engine_view
from samples_page import publish

from exporter.metrics.state.target import TargetState
from exporter.model.kv_events import KvEventKind, KvEventsView

COUNTS = dict.fromkeys(KvEventKind, 0) | {KvEventKind.STORED: 1200, KvEventKind.REMOVED: 34}


async def words(client) -> str:
    """The text of the page, without its tags."""
    text = html.unescape(re.sub(r"<[^>]*>", " ", await (await client.get("/")).text()))
    return " ".join(text.split())


def show(published, view):
    state = TargetState("local", kv_events=view)
    published.metrics.add(state)
    publish(published.metrics, engine_view())


async def test_received_events_are_a_fact_and_counters(client, published):
    show(published, KvEventsView("tcp://e:5557", True, COUNTS, 3))
    page, metrics = await words(client), await (await client.get("/metrics")).text()
    assert "KV events 1,234 received, 3 batches missed" in page
    assert "do not arrive" not in page
    assert 'vllm_engine_kv_events_connected{target="local"} 1.0' in metrics
    assert 'vllm_engine_kv_events_total{event="stored",target="local"} 1200.0' in metrics
    assert 'vllm_engine_kv_events_missed_total{target="local"} 3.0' in metrics


async def test_events_that_do_not_arrive_are_a_problem_with_the_flag_to_set(client, published):
    show(published, KvEventsView("tcp://e:5557", False, COUNTS))
    page, metrics = await words(client), await (await client.get("/metrics")).text()
    assert "The engine's KV events do not arrive Nothing answers at tcp://e:5557." in page
    assert "--kv-events-config" in page
    assert 'vllm_engine_kv_events_connected{target="local"} 0.0' in metrics


@pytest.mark.parametrize("path", ["/", "/metrics"])
async def test_without_the_setting_nothing_is_said(client, published, path):
    show(published, None)
    page = await (await client.get(path)).text()
    assert "kv_events" not in page
    assert "KV events" not in page
