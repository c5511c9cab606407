"""The last sessions of each target, in memory, failures kept longest."""

from __future__ import annotations

from heapq import merge
from itertools import islice
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
        self._sessions: dict[str, list[SessionResult]] = {}
        self.resize(capacity, failures)

    def resize(self, capacity: int, failures: int) -> None:
        """Keep so many from now on; what is too much goes at once, in the order as above."""
        if not 0 <= failures < capacity:
            message = f"{failures} places for failures do not fit into a history of {capacity}"
            raise ValueError(message)
        self._capacity = capacity
        self._failures = failures
        for kept in self._sessions.values():
            self._shrink(kept)

    def add(self, result: SessionResult) -> None:
        kept = self._sessions.setdefault(result.target, [])
        kept.append(result)
        self._shrink(kept)

    def _shrink(self, kept: list[SessionResult]) -> None:
        while len(kept) > self._capacity:
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
        wanted = self._sessions.values() if target is None else [self._sessions.get(target, [])]
        newest_first = merge(*(reversed(kept) for kept in wanted), key=_ended, reverse=True)
        return list(islice(newest_first, limit))


def _ended(result: SessionResult) -> float:
    return result.started_time + result.duration_seconds
