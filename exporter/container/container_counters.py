"""Counts of one target's container since this exporter started, and its diagnosis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from exporter.container.decide.records import Cause

if TYPE_CHECKING:
    from exporter.container.decide.observation import StartedRun
    from exporter.container.decide.records import Diagnosis


@dataclass(slots=True)
class ContainerCounters:
    """Counts by cause, and the diagnosis of the last failure until the container is ready again."""

    restarts: Counter[str] = field(default_factory=Counter)
    start_failures: Counter[str] = field(default_factory=Counter)
    oom_kills: int = 0
    model_loads: int = 0
    health_failures: int = 0
    startup_seconds: float | None = None
    diagnosis: Diagnosis | None = None
    _reason: Cause | None = None

    def continue_from(self, other: ContainerCounters) -> None:
        """Continue with the counts of the same container from another supervisor."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))

    def failed(self, diagnosis: Diagnosis, *, in_start: bool, oom_killed: bool = False) -> None:
        """A run ended unexpectedly, or Docker refused an action."""
        self.diagnosis = diagnosis
        self._reason = diagnosis.cause
        if in_start:
            self.start_failures[diagnosis.cause] += 1
        if oom_killed:
            self.oom_kills += 1

    def started(self, run: StartedRun, cause: Cause | None) -> None:
        """A run started. It is a restart if there was a run before."""
        if run.again and not run.adopted:
            fallback = cause or (Cause.EXITED if run.by_us else Cause.RESTARTED_ELSEWHERE)
            self.restarts[self._reason or fallback] += 1
        self._reason = None

    def became_ready(self, startup_seconds: float | None) -> None:
        """`startup_seconds` is None for a run that was ready at the first observation."""
        self.clear_diagnosis()
        if startup_seconds is not None:
            self.startup_seconds = startup_seconds

    def clear_diagnosis(self) -> None:
        """Ready again: clear the last diagnosis."""
        self.diagnosis = self._reason = None

    def model_loaded(self) -> None:
        """VLLM has read the weights."""
        self.model_loads += 1
