"""What a turn that lost tokens is asked: one more reading of the engine's counters and, where only
that can tell, the same prompt once more. A turn that lost nothing costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.cache.repeat import Repeat, long_enough
from exporter.analysis.cache.traffic import OwnUse, Traffic, room_beside, traffic_between
from exporter.analysis.loss.causes import Evidence, needs_repeat
from exporter.model.chat import CachedTokensSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.cache.engine_memory import EngineMemory
    from exporter.analysis.own_share import OwnShare
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineSnapshot, EngineView
    from exporter.probe.replicas import ReplicaDetector

Again = Callable[[bool], Awaitable["Sequence[Chat] | None"]]
"""Sends the turn's prompt once more, for one token of answer: its answer; None where that failed or
told no usage. Where True is given it is sent twice at the same time (overlap.py): both answers."""


class LossInquiry:
    """One session's readings of the engine, each with what the exporter had asked by then."""

    def __init__(
        self,
        replicas: ReplicaDetector,
        before: EngineView | None,
        own: Callable[[], OwnShare],
        memory: Callable[[], EngineMemory],
    ) -> None:
        """`memory` is of the process that answers now."""
        self._replicas = replicas
        self._last = self._config = _snapshot(before)
        self._start_time = self._last.process_start_time if self._last else None
        self._own = own
        self._memory = memory
        self._own_before = own()
        self._missed: Repeat | None = None
        self._session_tokens = 0  # under the session's salt, since the last reading
        self.engine = self._last
        self.repeated = 0  # the turn whose prompt was sent again last

    def used(self, turn: Chat) -> None:
        """Note what a turn asked and whether it hit; call it for each, in order."""
        self._session_tokens += turn.tokens
        if turn.cached_tokens:
            self._missed = None

    async def evidence(
        self, turn: Chat, ideal: int, match_unit: int, earlier: Sequence[Chat], again: Again
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
            room=room_beside(max((one.tokens for one in earlier), default=0), before, now),
            traffic=traffic,
            repeat=self._missed,
            several=self._replicas.proof,
        )
        if usage.cached_tokens is None or not needs_repeat(found) or self._missed is not None:
            return found
        return replace(found, repeat=await self._repeat(turn, match_unit, again))

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
        self.engine = self._last or self.engine
        own = OwnUse.between(own_before, self._own_before, self._session_tokens)
        self._session_tokens = 0
        return self._last, traffic_between(before, self._last, own)

    async def _repeat(self, turn: Chat, match_unit: int, again: Again) -> Repeat | None:
        self.repeated = turn.index
        chat = await self._sent_again(match_unit, again)
        usage = chat.usage if chat else None
        if chat is None or usage is None or usage.cached_tokens is None:
            return None
        _, traffic = await self._since_last()
        ids = chat.prompt_token_ids
        known = ids is not None and turn.prompt_token_ids is not None
        same = ids == turn.prompt_token_ids if known else None
        repeat = Repeat(usage.cached_tokens, traffic, same)
        if repeat.cached == 0 and long_enough(usage.prompt_tokens, match_unit):
            self._missed = repeat  # stands until a turn hits: it need not be asked at every turn
        return repeat

    async def _sent_again(self, match_unit: int, again: Again) -> Chat | None:
        """What the prompt's next sending hit.

        Where it missed the cache may have been emptied again, so it is then sent twice at the same
        time. A process that never hit is asked so once, and judged by the second of the two: some
        engines hit at a prompt's third sending, however the cache is.
        """
        answers, memory = await again(False), self._memory()
        if answers is None:
            return None
        self._session_tokens += sum(one.tokens for one in answers)
        (usage,) = [one.usage for one in answers]
        # Counters that tell what usage does not cannot tell two at the same time apart.
        told = usage and usage.cached_tokens == 0 and usage.source is CachedTokensSource.USAGE
        tried = memory.tried_beside and not memory.hit
        if not usage or not told or tried or not long_enough(usage.prompt_tokens, match_unit):
            return answers[0]
        memory.tried_beside = True
        both = await again(True)
        if both is None:
            return None
        self._session_tokens += sum(one.tokens for one in both)
        late = bool(both[0].cached_tokens) and not memory.hit
        found = next((one for one in both if one.cached_tokens), None)
        return answers[0] if late or found is None else found


def _snapshot(view: EngineView | None) -> EngineSnapshot | None:
    return view.snapshot if view else None
