"""Sinks that keep what they are told, for tests of the loops that publish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_clock import FakeClock

from exporter.loops import LoopHeartbeat

if TYPE_CHECKING:
    from exporter.analysis.footprint import Footprint
    from exporter.analysis.own_share import OwnShare
    from exporter.model.probe import Due, IsolationReading, PauseReason, RetentionReading
    from exporter.model.session import SessionResult


class RecordedProbe:
    """A `ProbeSink` and a `SessionSink`."""

    def __init__(self) -> None:
        self.sessions: list[SessionResult] = []
        self.tokens: list[int] = []
        self.shares: list[OwnShare] = []
        self.pauses: list[tuple[PauseReason | None, float | None]] = []
        self.footprints: list[Footprint] = []
        self.due: list[tuple[Due, float]] = []
        self.isolation: list[IsolationReading] = []
        self.retention: list[RetentionReading] = []

    def session_finished(self, result: SessionResult) -> None:
        self.sessions.append(result)

    def tokens_consumed(self, tokens: int) -> None:
        self.tokens.append(tokens)

    def own_share_changed(self, change: OwnShare) -> None:
        self.shares.append(change)

    def admission_checked(self, reason: PauseReason | None, until: float | None) -> None:
        self.pauses.append((reason, until))

    def footprint_changed(self, footprint: Footprint) -> None:
        self.footprints.append(footprint)

    def due_at(self, what: Due, time: float) -> None:
        self.due.append((what, time))

    def isolation_tested(self, reading: IsolationReading) -> None:
        self.isolation.append(reading)

    def retention_measured(self, reading: RetentionReading) -> None:
        self.retention.append(reading)


class RecordedLoop:
    """A `LoopSink` for one loop."""

    def __init__(self, clock: FakeClock | None = None, *, may_fail: bool = False) -> None:
        self.clock = clock or FakeClock()
        self.rounds = 0
        self.failures = 0
        self._may_fail = may_fail

    def ran(self, _loop: str, _time: float) -> None:
        self.rounds += 1

    def failed(self, loop: str) -> None:
        self.failures += 1
        if not self._may_fail:
            pytest.fail(f"a round of {loop} failed")

    @property
    def heartbeat(self) -> LoopHeartbeat:
        return LoopHeartbeat("loop", self, self.clock)
