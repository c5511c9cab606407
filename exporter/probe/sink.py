"""What the loops of one target's probe publish. The metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exporter.analysis.footprint import Footprint
    from exporter.analysis.own_share import OwnShare
    from exporter.model.probe import Due, IsolationReading, PauseReason, RetentionReading
    from exporter.model.session import SessionResult


class SessionSink(Protocol):
    """Gets every session that ended. The history and the supervisor need sessions too."""

    def session_finished(self, result: SessionResult) -> None:
        """A session or a heartbeat ended, finished or failed."""


class ProbeSink(Protocol):
    """Gets everything else that the probe of one target finds out. Only the metrics need it."""

    def tokens_consumed(self, tokens: int) -> None:
        """Prompt and completion tokens of requests that belong to no finished session."""

    def own_share_changed(self, change: OwnShare) -> None:
        """The exporter's own share of the engine's counters grew by `change`."""

    def admission_checked(self, reason: PauseReason | None, until: float | None) -> None:
        """Sessions wait for `reason`, None: they do not wait. `until` is a Unix time, if known."""

    def footprint_changed(self, footprint: Footprint) -> None:
        """What the probe wrote into the cache within the last hour, after each piece of work."""

    def due_at(self, what: Due, time: float) -> None:
        """The next session or heartbeat is due at a Unix time."""

    def isolation_tested(self, reading: IsolationReading) -> None:
        """An isolation test ended."""

    def retention_measured(self, reading: RetentionReading) -> None:
        """The retention of one gap was measured, or could not be."""
