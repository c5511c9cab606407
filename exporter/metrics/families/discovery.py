"""The families of discovery: the last answer of each source of targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import Reader, counter, gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.metrics.readers import Family
    from exporter.metrics.state.exporter import ExporterState, SourceState


def _by_source(value: Callable[[SourceState], float | None]) -> Reader[ExporterState]:
    return Reader(
        ("source",),
        lambda state: [((name,), value(each)) for name, each in state.discovery.items()],
    )


def _by_reason(values: Callable[[SourceState], Mapping[str, float]]) -> Reader[ExporterState]:
    return Reader(
        ("source", "reason"),
        lambda state: [
            ((name, reason), value)
            for name, each in state.discovery.items()
            for reason, value in values(each).items()
        ],
    )


DISCOVERY: Final[tuple[Family[ExporterState], ...]] = (
    gauge(
        "vllm_exporter_discovery_targets",
        _by_source(lambda source: source.targets),
        "Targets that the source adds. While the source does not answer, the number from its last "
        "answer. Absent before the first answer.",
    ),
    gauge(
        "vllm_exporter_discovery_left_out_targets",
        _by_reason(lambda source: source.left_out),
        "Engines that the source found but the exporter does not measure, by reason: containers "
        "and pods with a mistake in their labels, and targets above discovery.max_targets.",
    ),
    counter(
        "vllm_exporter_discovery_failures_total",
        _by_reason(lambda source: source.failures),
        "Queries of the source that failed, by reason. Its targets stay as they were.",
    ),
    gauge(
        "vllm_exporter_discovery_last_success_timestamp_seconds",
        _by_source(lambda source: source.last_success_time),
        "Unix time at which the source last answered.",
    ),
)
