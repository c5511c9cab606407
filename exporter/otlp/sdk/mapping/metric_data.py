"""Metric families as the SDK's metric data: the samples of /metrics at one moment. Pure.

A gauge stays a gauge, a counter is a cumulative monotonic sum, a histogram has explicit bounds. The
names are those of the page, and units are left empty: a receiver that adds units to names would
change them. What is unknown is absent, and a series that ended is not sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from exporter.metrics.client_library import encodable
from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    PROCESS,
    TARGET_FAMILIES,
)
from exporter.metrics.state.latency import Distribution

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.metrics.readers import Family, Reading, StateT
    from exporter.metrics.state.exporter import ExporterState
    from exporter.metrics.state.target import TargetState

Point = NumberDataPoint | HistogramDataPoint
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_OF_THE_ENGINE = "vllm_engine_"
"""Counters of these names go on from what the engine had counted before it was first read."""


def nanoseconds(seconds: float) -> int:
    """A Unix time as OTLP has it."""
    return round(seconds * 1e9)


class StartTimes:
    """Since when each counter counts, in Unix nanoseconds.

    The exporter's own counters start at 0 when their target is added. Where the value at the start
    is not known, the first time at which it was sent is the start, as OpenTelemetry's data model
    asks: a receiver then takes the first value for no increase.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[TargetState, dict[str, int]]] = {}  # by target

    def of(self, state: TargetState, family: str, now: int) -> int:
        """The start of a family's counters. A target that was replaced starts again."""
        if state.created_time is not None and not family.startswith(_OF_THE_ENGINE):
            return nanoseconds(state.created_time)
        known = self._first.get(state.name)
        if known is None or known[0] is not state:
            known = self._first[state.name] = (state, {})
        return known[1].setdefault(family, now)

    def keep(self, targets: Iterable[str]) -> None:
        """Forget all other targets."""
        for gone in self._first.keys() - set(targets):
            del self._first[gone]


@dataclass(frozen=True, slots=True)
class _Described:
    kind: str
    help: str
    points: list[Point] = field(default_factory=list)


class Moment:
    """The data points of one moment, by family."""

    def __init__(self, now: int, started: int) -> None:
        """`started` is the start of the exporter's own counters, both in Unix nanoseconds."""
        self._now = now
        self._started = started
        self._families: dict[str, _Described] = {}
        self.points = 0

    def add_target(self, state: TargetState, starts: StartTimes) -> None:
        """Add the families of a target and of its loops."""
        for family in TARGET_FAMILIES:
            start = starts.of(state, family.name, self._now)
            self._add(family, family.reader.read(state), start, state.leading_labels)
        for loops in LOOP_FAMILIES:
            self._add(
                loops, loops.reader.read(state.loops), starts.of(state, loops.name, self._now)
            )

    def add_exporter(self, state: ExporterState) -> None:
        """Add the families of the exporter itself, of its loops and of its process."""
        for family in EXPORTER_FAMILIES:
            self._add(family, family.reader.read(state), self._started)
        for loops in LOOP_FAMILIES:
            self._add(loops, loops.reader.read(state.loops), self._started)
        self._add_process()

    def metrics(self) -> list[Metric]:
        """All families that have a value."""
        return [Metric(name, each.help, "", _data(each)) for name, each in self._families.items()]

    def _add(
        self,
        family: Family[StateT],
        readings: Iterable[Reading],
        start: int,
        leading: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        names, first = tuple(leading) + family.reader.labels, tuple(leading.values())
        for labels, value in readings:
            if value is None:
                continue
            texts = [encodable(each) for each in first + labels]
            attributes = dict(zip(names, texts, strict=True))
            point = _point(attributes, start, self._now, value)
            self._put(family.name, family.kind, family.help, point)

    def _add_process(self) -> None:
        for metric in PROCESS.collect():
            for sample in metric.samples:
                point = _point(dict(sample.labels), self._started, self._now, sample.value)
                self._put(sample.name, metric.type, metric.documentation, point)

    def _put(self, name: str, kind: str, meaning: str, point: Point) -> None:
        described = self._families.get(name)
        if described is None:
            described = self._families[name] = _Described(kind, meaning)
        described.points.append(point)
        self.points += 1


def _point(attributes: dict[str, str], start: int, now: int, value: float | Distribution) -> Point:
    if isinstance(value, Distribution):
        counts = value.counts
        return HistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=start,
            time_unix_nano=now,
            count=sum(counts),
            sum=value.sum,
            bucket_counts=counts,
            explicit_bounds=value.bounds,
            min=None,  # type: ignore[arg-type]  # optional in the protocol, and not known
            max=None,  # type: ignore[arg-type]
        )
    return NumberDataPoint(attributes, start, now, float(value))


def _data(described: _Described) -> Gauge | Sum | Histogram:
    points = described.points
    if described.kind == "histogram":
        return Histogram(
            [each for each in points if isinstance(each, HistogramDataPoint)], _CUMULATIVE
        )
    numbers = [each for each in points if isinstance(each, NumberDataPoint)]
    if described.kind == "counter":
        return Sum(numbers, _CUMULATIVE, is_monotonic=True)
    return Gauge(numbers)
