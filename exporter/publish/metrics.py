"""The sink that turns records into metrics: keeps the latest of each target, exposes on demand.

Families are built anew at each collection from what is known then, so whatever goes quiet
disappears and nothing freezes. All calls come from the event loop's thread.
"""

from __future__ import annotations

import platform
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import structlog
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

log = structlog.stdlib.get_logger(__name__)

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def new_registry() -> CollectorRegistry:
    """A registry with the `process_*` families: what the exporter itself costs."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


TARGET_LOOPS = frozenset({"scrape", "probe", "retention", "isolation", "supervise"})
"""Kinds of the loops that a target has: such a loop is called KIND:NAME. Any other loop is one of
the exporter itself."""


class Metrics(Collector):
    """Every `vllm_*` family of this program, in the registry that is passed in.

    What is said of a target that was not added, or that was removed, is dropped.

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
        """Drop everything about a target: its series end, and those of its loops.

        What its loops still say afterwards is not heard. One that is not there changes nothing.
        """
        self._targets.pop(name, None)
        for kind in TARGET_LOOPS:
            self._exporter.forget_loop(f"{kind}:{name}")

    def session_finished(self, result: SessionResult) -> None:
        if (target := self._target(result.target)) is not None:
            target.add_session(result)

    def engine_scraped(self, view: EngineView) -> None:
        if (target := self._target(view.target)) is not None:
            target.add_view(view)

    def target_budget(self, name: str, tokens_per_hour: int | None, prices: Prices) -> None:
        """What the probe may ask of a target, None without a limit, and what the target costs."""
        if (target := self._target(name)) is not None:
            target.cost.budget_tokens_per_hour, target.cost.prices = tokens_per_hour, prices

    def gate_looked(self, name: str, paused: PauseReason | None) -> None:
        """Sessions of a target are held back for a reason, or not."""
        if (target := self._target(name)) is not None:
            target.cost.gate_looked(paused)

    def salts_tried(self, reading: SaltReading) -> None:
        if (target := self._target(reading.target)) is not None:
            target.add_salts(reading)

    def retention_read(self, reading: RetentionReading) -> None:
        if (target := self._target(reading.target)) is not None:
            target.cost.add_retention(reading)

    def consumed(self, name: str, tokens: int) -> None:
        """Tokens of a request that belongs to no session."""
        if (target := self._target(name)) is not None:
            target.sums.add_beside(tokens)

    def container_changed(self, view: ContainerView) -> None:
        if (target := self._target(view.target)) is not None:
            target.add_container(view)

    def loop_ran(self, loop: str, time: float) -> None:
        """A loop came round at Unix time `time`, whatever it found."""
        if self._is_there(loop):
            self._exporter.loop_ran(loop, time)

    def loop_failed(self, loop: str) -> None:
        """A round of a loop ended in an exception that nobody expected."""
        if self._is_there(loop):
            self._exporter.loop_failed(loop)

    def loop_gone(self, loop: str) -> None:
        """A loop does not run any more: its series end."""
        self._exporter.forget_loop(loop)

    def limit_turns(self, turn_label_limit: int) -> None:
        """From now on turns above this one have no series of their own."""
        self._turn_label_limit = turn_label_limit
        for target in self._targets.values():
            target.turn_label_limit = turn_label_limit

    def config_loaded(self, time: float) -> None:
        """The configuration that the program begins with came into force at Unix time `time`."""
        self._exporter.reloads.in_force(time)

    def config_reloaded(self, time: float) -> None:
        """The configuration was read again and came into force at Unix time `time`."""
        self._exporter.reloads.in_force(time)
        self._exporter.reloads.outcomes["success"] += 1

    def config_refused(self) -> None:
        """The configuration was read again and cannot be in force."""
        self._exporter.reloads.last_successful = False
        self._exporter.reloads.outcomes["failure"] += 1

    def web_config_looked_at(self, *, in_force: bool) -> None:
        """Whether what the web configuration's file says now is in force."""
        self._exporter.web_config_in_force = in_force

    def _target(self, name: str) -> TargetState | None:
        """None where it was removed: a session that was under way then may end after that."""
        found = self._targets.get(name)
        if found is None:
            log.debug("metrics.no_such_target", target=name)
        return found

    def _is_there(self, loop: str) -> bool:
        kind, colon, target = loop.partition(":")
        return not colon or kind not in TARGET_LOOPS or target in self._targets

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
