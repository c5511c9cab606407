"""Prometheus's own checker finds no problem in a full page."""

from __future__ import annotations

import subprocess

import pytest
from publish_records import TURNS, container_view, engine_view, session, turn
from samples_page import page_bytes, publish

from exporter.container.decide.records import PullProgress
from exporter.metrics.state.target import TargetState
from exporter.model.session import Notice


@pytest.mark.promtool
def test_promtool_finds_no_problem(promtool, published):
    metrics = published.metrics
    metrics.add(TargetState("local"))
    publish(metrics, session(*TURNS, turn(4, 1700, None, None), notices=frozenset(Notice)))
    publish(metrics, engine_view(hit_rate_gauge=0.5))
    publish(metrics, container_view(pull=PullProgress(1, 4, 100, 900)))
    metrics.add(TargetState("new"))
    metrics.exporter.loops.ran("probe", 5.0)
    page = page_bytes(published.metrics)
    check = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


@pytest.mark.promtool
def test_promtool_finds_a_bad_name(promtool):
    page = b"# HELP bad_count A gauge.\n# TYPE bad_count gauge\nbad_count 1\n"
    check = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    assert check.returncode != 0
