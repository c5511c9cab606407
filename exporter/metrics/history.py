"""The last sessions of each target, in memory. Failed sessions stay longest."""

from __future__ import annotations

import pickle
import zlib
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.model.session import SessionResult


class _Kept(NamedTuple):
    """A session, packed to 2 kB from 15 kB of objects, so that a large fleet fits into memory."""

    ended: float
    failed: bool
    packed: bytes


class History:
    """At most `capacity` sessions per target.

    When a target has too many, the oldest finished session goes; if more than `failures` failed
    sessions are kept, the oldest session of all goes. So the last `failures` failed sessions can be
    read even after many good ones.
    """

    def __init__(self, capacity: int = 50, failures: int = 10) -> None:
        self._sessions: dict[str, list[_Kept]] = {}
        self._latest: dict[str, SessionResult] = {}
        self.resize(capacity, failures)

    def resize(self, capacity: int, failures: int) -> None:
        """Change both limits, and drop at once what is too much."""
        if not 0 <= failures < capacity:
            message = f"a history of {capacity} sessions cannot keep {failures} failures"
            raise ValueError(message)
        self._capacity = capacity
        self._failures = failures
        for kept in self._sessions.values():
            self._shrink(kept)

    def add(self, result: SessionResult) -> None:
        kept = self._sessions.setdefault(result.target, [])
        ended = result.started_time + result.duration_seconds
        kept.append(_Kept(ended, result.failure is not None, _pack(result)))
        self._latest[result.target] = result
        self._shrink(kept)

    def _shrink(self, kept: list[_Kept]) -> None:
        while len(kept) > self._capacity:
            del kept[self._expendable(kept)]

    def _expendable(self, kept: list[_Kept]) -> int:
        """The index of the session to drop, never the newest: `failures` is below `capacity`."""
        if sum(each.failed for each in kept) > self._failures:
            return 0
        return next(place for place, each in enumerate(kept) if not each.failed)

    def forget(self, target: str) -> None:
        """Drop all sessions of a target."""
        self._sessions.pop(target, None)
        self._latest.pop(target, None)

    def latest(self, target: str) -> SessionResult | None:
        """The session that was added last; the same object at each call."""
        return self._latest.get(target)

    def sessions(self, target: str | None = None, limit: int | None = None) -> list[SessionResult]:
        """The sessions of one target or of all, newest first by their end."""
        return list(self.each(target, limit))

    def each(self, target: str | None = None, limit: int | None = None) -> Iterator[SessionResult]:
        """The same as an iterator, because to unpack a session takes a moment."""
        wanted = self._sessions.values() if target is None else [self._sessions.get(target, [])]
        newest_first = merge(*(reversed(kept) for kept in wanted), key=_ended, reverse=True)
        return map(_unpack, list(islice(newest_first, limit)))


def _ended(kept: _Kept) -> float:
    return kept.ended


def _pack(result: SessionResult) -> bytes:
    return zlib.compress(pickle.dumps(result, protocol=5), level=1)


def _unpack(kept: _Kept) -> SessionResult:
    result: SessionResult = pickle.loads(zlib.decompress(kept.packed))  # noqa: S301 - this process made it
    return result
