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
    Traffic,
    needs_repeat,
    room_beside,
    traffic_between,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model import EngineSnapshot, EngineView, Turn, Usage
    from exporter.own_share import OwnShare
    from exporter.probe.replicas import ReplicaWatch

Observe = Callable[[], Awaitable["EngineView | None"]]
"""A fresh look at the engine's own metrics."""
Again = Callable[[], Awaitable["Usage | None"]]
"""Sends the turn's prompt once more, for one token of answer; None where that failed."""


class LossInquiry:
    """One session's readings of the engine, each with what the exporter had asked by then."""

    def __init__(
        self, replicas: ReplicaWatch, before: EngineView | None, own: Callable[[], OwnShare]
    ) -> None:
        self._replicas = replicas
        self._last = self._config = _snapshot(before)
        self._start_time = self._last.process_start_time if self._last else None
        self._own = own
        self._own_before = own()
        self._wedged: Repeat | None = None

    def used(self, turn: Turn) -> None:
        """Note whether a turn hit; call it for each, in order."""
        if turn.usage is not None and turn.usage.cached_tokens:
            self._wedged = None

    async def evidence(
        self, turn: Turn, ideal: int, match_unit: int, earlier: Sequence[Turn], again: Again
    ) -> Evidence | None:
        """Evidence about `turn` if it lost tokens against `ideal`, or if that may come out later:
        then its cached tokens, which are not known yet, are taken for 0.
        """
        usage = turn.usage
        if usage is None or (usage.cached_tokens or 0) >= ideal:
            return None
        before = self._last
        now, traffic = await self._since_last()
        self._config = now or self._config
        cache = self._config.cache if self._config else None
        found = Evidence(
            cached=usage.cached_tokens or 0,
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
        if usage.cached_tokens is None or not needs_repeat(found) or self._wedged is not None:
            return found
        return replace(found, repeat=await self._repeat(again))

    def _restarted(self, now: EngineSnapshot | None) -> bool | None:
        """Whether the process is another one than last known; None where one does not say."""
        before, after = self._start_time, now.process_start_time if now else None
        if after is not None:
            self._start_time = after
        return None if before is None or after is None else after != before

    async def _since_last(self) -> tuple[EngineSnapshot | None, Traffic | None]:
        """A new reading, and the traffic since the one before it."""
        before, own_before = self._last, self._own_before
        self._last, self._own_before = _snapshot(await self._replicas.next()), self._own()
        own = OwnUse.between(own_before, self._own_before)
        return self._last, traffic_between(before, self._last, own)

    async def _repeat(self, again: Again) -> Repeat | None:
        usage = await again()
        if usage is None or usage.cached_tokens is None:
            return None
        _, traffic = await self._since_last()
        repeat = Repeat(usage.cached_tokens, traffic)
        if repeat.cached == 0:
            self._wedged = repeat  # stands until a turn hits: it need not be asked at every turn
        return repeat


def _length(turn: Turn) -> int:
    return turn.usage.prompt_tokens + turn.usage.completion_tokens if turn.usage else 0


def _snapshot(view: EngineView | None) -> EngineSnapshot | None:
    return view.snapshot if view else None
