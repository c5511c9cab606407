"""What the exporter knows of itself: its loops, its configuration, its discovery. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.metrics.state.otlp import OtlpState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


@dataclass(slots=True)
class Loops:
    """Implements `exporter.loops.LoopSink`, for the loops of one target or of the exporter."""

    failures: dict[str, int] = field(default_factory=dict)
    last_run: dict[str, float] = field(default_factory=dict)  # Unix times

    def ran(self, loop: str, time: float) -> None:
        self.last_run[loop] = time
        self.failures.setdefault(loop, 0)

    def failed(self, loop: str) -> None:
        self.failures[loop] = self.failures.get(loop, 0) + 1

    def gone(self, loop: str) -> None:
        """Drop a loop that does not run any more."""
        self.last_run.pop(loop, None)
        self.failures.pop(loop, None)

    def keep(self, loops: Collection[str]) -> None:
        """Drop all other loops."""
        for loop in (self.failures.keys() | self.last_run.keys()).difference(loops):
            self.gone(loop)


@dataclass(slots=True)
class Reloads:
    """The configuration: both are None until it is in force for the first time."""

    last_successful: bool | None = None
    last_success_time: float | None = None
    outcomes: dict[str, int] = field(default_factory=lambda: {"success": 0, "failure": 0})

    def in_force(self, time: float) -> None:
        """The configuration is in force since the Unix time `time`."""
        self.last_successful, self.last_success_time = True, time

    def succeeded(self, time: float) -> None:
        """A reload put a configuration into force."""
        self.in_force(time)
        self.outcomes["success"] += 1

    def failed(self) -> None:
        """A reload was refused; the configuration before it stays in force."""
        self.last_successful = False
        self.outcomes["failure"] += 1


@dataclass(slots=True)
class SourceState:
    """One source of targets: the rest is None or empty until it answers for the first time."""

    failures: dict[str, int]  # every reason that the source can have
    targets: int | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    last_success_time: float | None = None


@dataclass(slots=True)
class ExporterState:
    """The exporter about itself. It is a `DiscoverySink` and a `WebConfigSink`."""

    version: str
    revision: str | None
    python: str
    targets: int = 0
    whole_page: bool = True
    loops: Loops = field(default_factory=Loops)  # those that belong to no target
    web_config_in_force: bool | None = None  # None: no such file is configured
    reloads: Reloads = field(default_factory=Reloads)
    discovery: dict[str, SourceState] = field(default_factory=dict)  # by source
    otlp: OtlpState = field(default_factory=OtlpState)

    def web_config_checked(self, *, in_force: bool) -> None:
        self.web_config_in_force = in_force

    def source_added(self, source: str, reasons: Iterable[str]) -> None:
        """Count a source; one that is known keeps its counts."""
        self.discovery.setdefault(source, SourceState(dict.fromkeys(reasons, 0)))

    def source_answered(
        self, source: str, *, targets: int, left_out: Mapping[str, int], time: float
    ) -> None:
        state = self.discovery[source]
        state.targets, state.left_out, state.last_success_time = targets, dict(left_out), time

    def source_failed(self, source: str, reason: str) -> None:
        failures = self.discovery[source].failures
        failures[reason] = failures.get(reason, 0) + 1

    def source_removed(self, source: str) -> None:
        """Drop a source and its loop."""
        self.discovery.pop(source, None)
        self.loops.gone(f"discovery:{source}")
