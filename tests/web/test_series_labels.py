"""Labels of one's own are on every series of their target, and on no other."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from publish_records import (
    TURNS,
    container_view,
    engine_view,
    session,
)
from samples_page import page_text, publish

from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics

OWN = {"team": 'se"arch', "gpu": "h100"}


def test_they_are_on_every_series_of_their_target_and_on_no_other():
    metrics = Metrics()
    metrics.add(TargetState("a", labels=OWN))
    metrics.add(TargetState("b"))
    for name in ("a", "b"):
        publish(metrics, session(*TURNS, target=name))
        publish(metrics, engine_view(target=name))
        publish(metrics, container_view(target=name))
    seen = {"a": 0, "b": 0}
    for family in text_string_to_metric_families(page_text(metrics)):
        for sample in family.samples:
            target = sample.labels.get("target")
            added = {name: sample.labels[name] for name in OWN if name in sample.labels}
            assert added == (OWN if target == "a" else {}), sample
            if target:
                seen[target] += 1
    assert seen["a"] == seen["b"] > 200
