"""What /metrics shows, written as in production and read back as by Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from exporter.container.decide.records import ContainerView
from exporter.metrics.client_library import add, empty
from exporter.metrics.families.tables import (
    EXPORTER_FAMILIES,
    LOOP_FAMILIES,
    PROCESS,
    TARGET_FAMILIES,
)
from exporter.metrics.writer import writer_for
from exporter.model.engine import EngineView
from exporter.model.probe import IsolationReading, RetentionReading
from exporter.model.session import SessionResult
from exporter.web.metrics_page import MetricsPage, PageKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from exporter.metrics.store import Metrics


def page_bytes(metrics: Metrics, accept: str = "") -> bytes:
    """The page of all targets. It needs no event loop: nothing in it waits for anything."""
    kind = PageKind(writer_for(accept)[0], None, gzip=False)
    writing = MetricsPage(metrics)._whole(kind)
    while True:
        try:
            writing.send(None)
        except StopIteration as done:
            return done.value


def page_text(metrics: Metrics) -> str:
    return page_bytes(metrics).decode()


class ClientLibraryFamilies:
    """The same families as prometheus_client collects them, for its own encoders."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from PROCESS.collect()
        targets, exporter = self._metrics.targets, self._metrics.exporter
        for family in TARGET_FAMILIES:
            metric = empty(family, "target")
            for state in targets.values():
                part = empty(family, *state.leading_labels)
                add(part, family.reader.read(state), *state.leading_labels.values())
                metric.samples += part.samples
            yield from _shown(metric)
        for family in EXPORTER_FAMILIES:
            metric = empty(family)
            add(metric, family.reader.read(exporter))
            yield from _shown(metric)
        for family in LOOP_FAMILIES:
            metric = empty(family)
            for loops in (exporter.loops, *(state.loops for state in targets.values())):
                add(metric, family.reader.read(loops))
            yield from _shown(metric)


def _shown(metric: Metric) -> list[Metric]:
    return [metric] if metric.samples else []


class Page:
    """Values by family and labels, of the target `local`."""

    def __init__(self, metrics: Metrics) -> None:
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page_text(metrics))
            for sample in family.samples
        }
        self.names = {name for name, _ in self.samples}

    def value(self, family: str, /, **labels: str) -> float | None:
        return self.value_of(family, target="local", **labels)

    def value_of(self, family: str, /, **labels: str) -> float | None:
        """Of a family that has no label `target`, or of another target."""
        return self.samples.get((family, frozenset(labels.items())))

    def series(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (n, labels), value in self.samples.items() if n == name}


def publish(
    metrics: Metrics,
    record: SessionResult | EngineView | ContainerView | IsolationReading | RetentionReading,
) -> None:
    """Give a record to the state of its target."""
    target = metrics.targets[record.target]
    match record:
        case SessionResult():
            target.session_finished(record)
        case EngineView():
            target.engine_scraped(record)
        case ContainerView():
            target.container_changed(record)
        case IsolationReading():
            target.isolation_tested(record)
        case RetentionReading():
            target.retention_measured(record)
