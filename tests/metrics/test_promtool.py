"""Prometheus's own checker has nothing to say of a full page, in either format."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client.exposition import generate_latest
from publish_records import TURNS, container_view, engine_view, session, turn

from exporter.container.decide.records import PullProgress
from exporter.model.session import Notice


@pytest.mark.promtool
def test_promtool_has_nothing_to_say(promtool, published):
    metrics = published.metrics
    metrics.target_added("local")
    metrics.session_finished(session(*TURNS, turn(4, 1700, None, None), notices=frozenset(Notice)))
    metrics.engine_scraped(engine_view(hit_rate_gauge=0.5))
    metrics.container_changed(container_view(pull=PullProgress(1, 4, 100, 900)))
    metrics.target_added("new")
    metrics.loop_ran("probe", 5.0)
    page = generate_latest(published.registry)
    check = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


@pytest.mark.promtool
def test_promtool_would_have_found_a_bad_name(promtool):
    page = b"# HELP bad_count A gauge.\n# TYPE bad_count gauge\nbad_count 1\n"
    check = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    assert check.returncode != 0
