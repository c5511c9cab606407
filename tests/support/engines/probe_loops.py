"""The loops of one target's probe, on a clock of the test's."""

from __future__ import annotations

from recorded_sinks import RecordedLoop, RecordedProbe

from exporter.engine.wire.request import Deadlines
from exporter.loops import Periodic, Schedule
from exporter.probe.context import ProbeContext
from exporter.probe.scheduled.isolation_probe import IsolationProbe
from exporter.probe.scheduled.retention_probe import RetentionProbe
from exporter.probe.scheduled.session_probe import SessionProbe

PATIENT = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)
ONCE_A_MINUTE = Schedule(0.0, 60.0)
ONCE_AN_HOUR = Schedule(0.0, 3600.0)


class ProbeLoops:
    """Makes the loops; `sink` has what they publish, `counted` their rounds and failures."""

    def __init__(
        self,
        clock,
        admission,
        requests=None,
        *,
        new_salt=None,
        deadlines=PATIENT,
        may_fail=False,
    ) -> None:
        self.sink = RecordedProbe()
        self.counted = RecordedLoop(clock, may_fail=may_fail)
        self._context = ProbeContext("t", requests, admission, deadlines, new_salt, self.sink)

    def sessions(self, runner, schedule=ONCE_A_MINUTE) -> Periodic:
        probe = SessionProbe(self._context, runner, self.sink, schedule.interval_seconds)
        return self._loop(probe.round, schedule)

    def retention(self, gaps, schedule=ONCE_AN_HOUR) -> Periodic:
        return self._loop(self.retention_probe(gaps).round, schedule)

    def retention_probe(self, gaps) -> RetentionProbe:
        return RetentionProbe(self._context, gaps, RecordedLoop(self.counted.clock).heartbeat)

    def isolation(self, schedule) -> Periodic:
        return self._loop(IsolationProbe(self._context).round, schedule)

    def _loop(self, round_, schedule) -> Periodic:
        return Periodic(self.counted.heartbeat, round_, schedule)
