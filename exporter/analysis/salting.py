"""What keeps a session apart from every other: its salt, or words of its own if salts do nothing.

A salt is trusted until a first turn hits under one that was never used, and again once another
process answers: it may be another version. The words stand at the head of the first message, so
that the first block of every prompt of the session differs from every other session's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model.engine import EngineInfo, EngineView


@dataclass(frozen=True, slots=True)
class Process:
    """What tells one process of an engine from the next; None is unknown.

    `restarts` is how many were seen before it, known wherever its metrics could be read.
    """

    version: str | None
    start_time: float | None = None
    restarts: int | None = None

    def differs(self, other: Process) -> bool:
        """Whether the two are known to be different processes."""
        return any(
            one is not None and another is not None and one != another
            for one, another in zip(self._parts(), other._parts(), strict=True)
        )

    def with_what(self, other: Process) -> Process:
        """With what the other, which does not differ, knows in addition."""
        return Process(
            other.version if self.version is None else self.version,
            other.start_time if self.start_time is None else self.start_time,
            other.restarts if self.restarts is None else self.restarts,
        )

    def _parts(self) -> tuple[str | None, float | None, int | None]:
        return self.version, self.start_time, self.restarts


def process_of(info: EngineInfo, view: EngineView | None) -> Process | None:
    """The process that answers, as far as it is known; None where there are several."""
    if view is not None and view.mixed:
        return None
    if view is None or view.snapshot is None:
        return Process(info.version)
    return Process(info.version, view.snapshot.process_start_time, view.restarts)


class SaltTrust:
    """Whether the engine keeps salts apart, as far as its sessions showed."""

    def __init__(self) -> None:
        self._ignored = False
        self._by: Process | None = None

    def ignored(self, process: Process | None) -> bool:
        """Whether this process is known to ignore salts.

        One that is not known to be the process that ignored them is trusted again: if it is the
        same after all, its next session finds that out at the cost of one turn.
        """
        if process is not None and self._ignored:
            if self._by is None or process.differs(self._by):
                self._ignored, self._by = False, None
            else:
                self._by = self._by.with_what(process)
        return self._ignored

    def distrust(self, process: Process | None) -> None:
        """A first turn hit under a salt never used before."""
        self._ignored, self._by = True, process
