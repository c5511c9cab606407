"""The families of discovery: what each source of targets came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import Family, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    Family(
        "vllm_exporter_discovery_targets",
        "gauge",
        _by_source(lambda source: source.targets),
        "Targets that a source has added; while it does not answer, those of its last answer. "
        "Absent before the first.",
    ),
    Family(
        "vllm_exporter_discovery_left_out_targets",
        "gauge",
        _by_reason(lambda source: source.left_out),
        "What a source found and is not measured: a mistake in a container's labels, or more than "
        "discovery.max_targets.",
    ),
    Family(
        "vllm_exporter_discovery_failures_total",
        "counter",
        _by_reason(lambda source: source.failures),
        "Looks at a source that failed, by reason. Its targets stay as they were.",
    ),
    Family(
        "vllm_exporter_discovery_last_success_timestamp_seconds",
        "gauge",
        _by_source(lambda source: source.last_success_time),
        "Unix time at which a source last answered.",
    ),
)
