"""Families as objects of prometheus_client: empty, or with values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from exporter.metrics.state.latency import Distribution

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.metrics.readers import Family, Reading, StateT

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

_LONGEST_LABEL = 1000
"""Characters of a label's value. Engines choose some values, and every page has to carry them."""

_TYPES: Mapping[str, type[MetricFamily]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def empty(family: Family[StateT], *leading: str) -> MetricFamily:
    """The family without values. `leading` are labels before those of its reader."""
    return _TYPES[family.kind](family.name, family.help, labels=(*leading, *family.reader.labels))


def add(metric: MetricFamily, readings: Iterable[Reading], *leading: str) -> None:
    """Add the known values. `leading` are the values of the leading labels."""
    for labels, value in readings:
        if value is None:
            continue
        written = [encodable(label) for label in (*leading, *labels)]
        if isinstance(metric, HistogramMetricFamily) and isinstance(value, Distribution):
            metric.add_metric(written, _buckets(value), value.sum)
        elif not isinstance(metric, HistogramMetricFamily) and not isinstance(value, Distribution):
            metric.add_metric(written, value)
        else:
            raise TypeError(f"{metric.name} is a {metric.type} and was given {value!r}")


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    bounds = [*map(str, distribution.bounds), "+Inf"]
    return list(zip(bounds, distribution.cumulative(), strict=True))


def encodable(label: str) -> str:
    """Replaces half surrogate pairs, which JSON of an engine can contain and UTF-8 cannot."""
    return label[:_LONGEST_LABEL].encode("utf-8", "replace").decode()
