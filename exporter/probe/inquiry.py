"""What a turn that lost tokens is asked: one more reading of the engine's counters and, where only
that can tell, the same prompt once more. A turn that lost nothing costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.probe.loss import (
    Evidence,
    OwnUse,
    Repeat,
    needs_repeat,
    room_beside,
    traffic_between,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model import EngineSnapshot, EngineView, Turn, Usage
    from exporter.probe.replicas import ReplicaWatch

Observe = Callable[[], Awaitable["EngineView | None"]]
"""A fresh look at the engine's own metrics."""
Again = Callable[[], Awaitable["Usage | None"]]
"""Sends the turn's prompt once more, for one token of answer; None where that failed."""


class LossInquiry:
    """One session's readings of the engine, and what the session used in between."""

    def __init__(self, replicas: ReplicaWatch, before: EngineView | None) -> None:
        self._replicas = replicas
        self._last = self._config = _snapshot(before)
        self._start_time = self._last.process_start_time if self._last else None
        self._own = OwnUse()
        self._wedged: Repeat | None = None
        self.extra_tokens = 0

    def used(self, turn: Turn) -> None:
        """Count a turn as the session's own use of the engine; call it for each, in order."""
        if turn.usage is None:
            self._last = None  # from here on our own share of the counters is unknown
            return
        if turn.usage.cached_tokens:
            self._wedged = None
        self._own = self._own.plus(turn.usage)

    async def evidence(
        self, turn: Turn, ideal: int, match_unit: int, earlier: Sequence[Turn], again: Again
    ) -> Evidence | None:
        """Evidence about `turn`, already counted by `used`, if it lost tokens against `ideal`."""
        usage = turn.usage
        if usage is None or usage.cached_tokens is None or usage.cached_tokens >= ideal:
            return None
        before, now = self._last, _snapshot(await self._replicas.next())
        traffic = traffic_between(before, now, self._own)
        self._last, self._own = now, OwnUse()
        self._config = now or self._config
        cache = self._config.cache if self._config else None
        found = Evidence(
            cached=usage.cached_tokens,
            ideal=ideal,
            prompt=usage.prompt_tokens,
            match_unit=match_unit,
            prefix_caching=cache.prefix_caching if cache else None,
            restarted=self._restarted(now),
            ranks=now.ranks if now else None,
            room=room_beside(max(map(_length, earlier), default=0), before, now),
            traffic=traffic,
            repeat=self._wedged,
            several=self._replicas.proof,
        )
        if not needs_repeat(found) or self._wedged is not None:
            return found
        return replace(found, repeat=await self._repeat(again))

    def _restarted(self, now: EngineSnapshot | None) -> bool | None:
        """Whether the process is another one than last known; None where one does not say."""
        before, after = self._start_time, now.process_start_time if now else None
        if after is not None:
            self._start_time = after
        return None if before is None or after is None else after != before

    async def _repeat(self, again: Again) -> Repeat | None:
        usage = await again()
        if usage is None or usage.cached_tokens is None:
            return None
        self.extra_tokens += usage.prompt_tokens + usage.completion_tokens
        before, now = self._last, _snapshot(await self._replicas.next())
        repeat = Repeat(usage.cached_tokens, traffic_between(before, now, OwnUse().plus(usage)))
        self._last, self._own = now, OwnUse()
        if repeat.cached == 0:
            self._wedged = repeat  # stands until a turn hits: it need not be asked at every turn
        return repeat


def _length(turn: Turn) -> int:
    return turn.usage.prompt_tokens + turn.usage.completion_tokens if turn.usage else 0


def _snapshot(view: EngineView | None) -> EngineSnapshot | None:
    return view.snapshot if view else None
