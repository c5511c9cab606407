"""The sink that turns records into metrics: keeps the latest of each target, exposes on demand.

Families are built anew at each collection from what is known then, so whatever goes quiet
disappears and nothing freezes. All calls come from the event loop's thread.
"""

from __future__ import annotations

import platform
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import exporter
from exporter.publish.families import EXPORTER, TARGET_FAMILIES
from exporter.publish.state import Distribution, ExporterState, TargetState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.container.records import ContainerView
    from exporter.model import (
        EngineView,
        PauseReason,
        RetentionReading,
        SaltReading,
        SessionResult,
    )
    from exporter.publish.cost_state import Prices
    from exporter.publish.readers import Family, Reading, StateT

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def new_registry() -> CollectorRegistry:
    """A registry with the `process_*` families: what the exporter itself costs."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Metrics(Collector):
    """Every `vllm_*` family of this program, in the registry that is passed in.

    Turns above `turn_label_limit` have no series of their own; they count in every sum.
    """

    def __init__(self, registry: CollectorRegistry, *, turn_label_limit: int = 32) -> None:
        self._turn_label_limit = turn_label_limit
        self._targets: dict[str, TargetState] = {}
        self._exporter = ExporterState(exporter.__version__, platform.python_version())
        registry.register(self)

    @property
    def targets(self) -> Mapping[str, TargetState]:
        """The state of each target by name, to be read only."""
        return MappingProxyType(self._targets)

    def target_added(self, name: str, *, mode: str = "external", url: str | None = None) -> None:
        """Begin the counters of a target at zero. Adding one that is there changes nothing.

        `url` is for people: whatever in it could be a secret is not kept.
        """
        shown = None if url is None else _without_secrets(url)
        self._targets.setdefault(name, TargetState(name, mode, shown, self._turn_label_limit))

    def target_removed(self, name: str) -> None:
        """Drop everything about a target: its series end."""
        self._targets.pop(name, None)

    def session_finished(self, result: SessionResult) -> None:
        self._target(result.target).add_session(result)

    def engine_scraped(self, view: EngineView) -> None:
        self._target(view.target).add_view(view)

    def target_budget(self, name: str, tokens_per_hour: int | None, prices: Prices) -> None:
        """What the probe may ask of a target, None without a limit, and what the target costs."""
        cost = self._target(name).cost
        cost.budget_tokens_per_hour, cost.prices = tokens_per_hour, prices

    def gate_looked(self, name: str, paused: PauseReason | None) -> None:
        """Sessions of a target are held back for a reason, or not."""
        self._target(name).cost.gate_looked(paused)

    def salts_tried(self, reading: SaltReading) -> None:
        self._target(reading.target).add_salts(reading)

    def retention_read(self, reading: RetentionReading) -> None:
        self._target(reading.target).cost.add_retention(reading)

    def consumed(self, name: str, tokens: int) -> None:
        """Tokens of a request that belongs to no session."""
        self._target(name).sums.add_beside(tokens)

    def container_changed(self, view: ContainerView) -> None:
        self._target(view.target).add_container(view)

    def loop_ran(self, loop: str, time: float) -> None:
        """A loop came round at Unix time `time`, whatever it found."""
        self._exporter.loop_last_run[loop] = time
        self._exporter.loop_failures.setdefault(loop, 0)

    def loop_failed(self, loop: str) -> None:
        """A round of a loop ended in an exception that nobody expected."""
        self._exporter.loop_failures[loop] = self._exporter.loop_failures.get(loop, 0) + 1

    def web_config_looked_at(self, *, in_force: bool) -> None:
        """Whether what the web configuration's file says now is in force."""
        self._exporter.web_config_in_force = in_force

    def _target(self, name: str) -> TargetState:
        self.target_added(name)
        return self._targets[name]

    def describe(self) -> Iterator[Metric]:
        """Every family without values, which tells a registry the names."""
        for family in TARGET_FAMILIES:
            yield _empty(family, "target")
        for family_of_exporter in EXPORTER:
            yield _empty(family_of_exporter)

    def collect(self) -> Iterator[Metric]:
        """Every family that has a value now."""
        for family in TARGET_FAMILIES:
            metric = _empty(family, "target")
            for name, state in self._targets.items():
                _add(metric, family.reader.read(state), name)
            if metric.samples:
                yield metric
        for family_of_exporter in EXPORTER:
            metric = _empty(family_of_exporter)
            _add(metric, family_of_exporter.reader.read(self._exporter))
            if metric.samples:
                yield metric


_LONGEST_LABEL = 1000
"""Characters of a label's value: an engine chooses some of them, and each page would carry them."""

_TYPES: Mapping[str, type[MetricFamily]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _empty(family: Family[StateT], *leading: str) -> MetricFamily:
    return _TYPES[family.kind](family.name, family.help, labels=(*leading, *family.reader.labels))


def _add(metric: MetricFamily, readings: Iterable[Reading], *leading: str) -> None:
    for labels, value in readings:
        if value is None:
            continue
        written = [_encodable(label) for label in (*leading, *labels)]
        if isinstance(metric, HistogramMetricFamily) and isinstance(value, Distribution):
            metric.add_metric(written, _buckets(value), value.sum)
        elif not isinstance(metric, HistogramMetricFamily) and not isinstance(value, Distribution):
            metric.add_metric(written, value)
        else:
            raise TypeError(f"{metric.name} is a {metric.type} and was given {value!r}")


def _buckets(distribution: Distribution) -> list[tuple[str, float]]:
    bounds = [*map(str, distribution.bounds), "+Inf"]
    return list(zip(bounds, distribution.cumulative(), strict=True))


def _encodable(label: str) -> str:
    """JSON from an engine may hold half a surrogate pair, with which no page could be encoded."""
    return label[:_LONGEST_LABEL].encode("utf-8", "replace").decode()


def _without_secrets(url: str) -> str:
    """Scheme, host, port and path: neither user and password nor a query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
