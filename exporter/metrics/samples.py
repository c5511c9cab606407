"""The families of this program as prometheus_client has them: empty, and with what was read."""

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
"""Characters of a label's value: an engine chooses some of them, and each page would carry them."""

_TYPES: Mapping[str, type[MetricFamily]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def empty(family: Family[StateT], *leading: str) -> MetricFamily:
    """The family without a value; `leading` are labels before those of its reader."""
    return _TYPES[family.kind](family.name, family.help, labels=(*leading, *family.reader.labels))


def add(metric: MetricFamily, readings: Iterable[Reading], *leading: str) -> None:
    """Add what was read and is known; `leading` are the values of the labels before."""
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
    """JSON from an engine may hold half a surrogate pair, with which no page could be encoded."""
    return label[:_LONGEST_LABEL].encode("utf-8", "replace").decode()
