"""The last sessions of each target, in memory, failures kept longest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model import SessionResult


class History:
    """At most `capacity` sessions per target.

    Where one more does not fit, the oldest finished session goes, as long as failures take no
    more than `failures` places; beyond that the oldest of all goes. So after a night of good
    sessions the last `failures` bad ones can still be read, and a night of bad ones cannot grow.
    """

    def __init__(self, capacity: int = 50, failures: int = 10) -> None:
        if not 0 <= failures < capacity:
            message = f"{failures} places for failures do not fit into a history of {capacity}"
            raise ValueError(message)
        self._capacity = capacity
        self._failures = failures
        self._sessions: dict[str, list[SessionResult]] = {}

    def add(self, result: SessionResult) -> None:
        kept = self._sessions.setdefault(result.target, [])
        kept.append(result)
        if len(kept) > self._capacity:
            del kept[self._expendable(kept)]

    def _expendable(self, kept: list[SessionResult]) -> int:
        if sum(result.failure is not None for result in kept) > self._failures:
            return 0
        return next(place for place, result in enumerate(kept) if result.failure is None)

    def forget(self, target: str) -> None:
        """Drop a target that is no longer there."""
        self._sessions.pop(target, None)

    def latest(self, target: str) -> SessionResult | None:
        kept = self._sessions.get(target)
        return kept[-1] if kept else None

    def sessions(self, target: str | None = None, limit: int | None = None) -> list[SessionResult]:
        """Newest first, of one target or of all; those of one target in the order they ended."""
        if target is not None:
            newest_first = self._sessions.get(target, [])[::-1]
        else:
            every = [result for kept in self._sessions.values() for result in reversed(kept)]
            newest_first = sorted(every, key=_ended, reverse=True)
        return newest_first[:limit]


def _ended(result: SessionResult) -> float:
    return result.started_time + result.duration_seconds
