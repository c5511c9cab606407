"""A session that a client asked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model.session import SessionResult


class OnDemandOutcome(StrEnum):
    """What came of it: the label `outcome` of a gauge."""

    FINISHED = "finished"
    FAILED = "failed"
    TIMEOUT = "timeout"  # it did not end while the client waited
    REFUSED = "refused"  # no session began


IN_PROGRESS = "in_progress"
"""Refused: another session on demand of this target is running, or other work of the exporter took
as long as the client waited."""
STOPPING = "stopping"
"""Refused: the target stops or gets other settings."""


@dataclass(frozen=True, slots=True)
class OnDemandAnswer:
    """`reason` is that of a failure or pause, or one of the above; "" where it finished.

    `session` is the session as far as it was played, None where none began. `retry_seconds` says
    after which time a refused client may ask again.
    """

    target: str
    outcome: OnDemandOutcome
    reason: str = ""
    session: SessionResult | None = None
    retry_seconds: float | None = None
