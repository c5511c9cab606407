"""The last sessions of each target, in memory, failures kept longest."""

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
    """A session as it is kept: 2 kB where the objects have 15, so that a large fleet fits."""

    ended: float
    failed: bool
    packed: bytes


class History:
    """At most `capacity` sessions per target.

    Where one more does not fit, the oldest finished session goes, as long as failures take no
    more than `failures` places; beyond that the oldest of all goes. So after a night of good
    sessions the last `failures` bad ones can still be read, and a night of bad ones cannot grow.
    """

    def __init__(self, capacity: int = 50, failures: int = 10) -> None:
        self._sessions: dict[str, list[_Kept]] = {}
        self._latest: dict[str, SessionResult] = {}
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
        ended = result.started_time + result.duration_seconds
        kept.append(_Kept(ended, result.failure is not None, _pack(result)))
        self._latest[result.target] = result
        self._shrink(kept)

    def _shrink(self, kept: list[_Kept]) -> None:
        while len(kept) > self._capacity:
            del kept[self._expendable(kept)]

    def _expendable(self, kept: list[_Kept]) -> int:
        """Never the newest: there are fewer places for failures than places."""
        if sum(each.failed for each in kept) > self._failures:
            return 0
        return next(place for place, each in enumerate(kept) if not each.failed)

    def forget(self, target: str) -> None:
        """Drop a target that is no longer there."""
        self._sessions.pop(target, None)
        self._latest.pop(target, None)

    def latest(self, target: str) -> SessionResult | None:
        """The session that was added last: the same object until there is another."""
        return self._latest.get(target)

    def sessions(self, target: str | None = None, limit: int | None = None) -> list[SessionResult]:
        """Newest first, of one target or of all; those of one target in the order they ended."""
        return list(self.each(target, limit))

    def each(self, target: str | None = None, limit: int | None = None) -> Iterator[SessionResult]:
        """The same one by one, as they are at the first: each takes a moment to unpack."""
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
