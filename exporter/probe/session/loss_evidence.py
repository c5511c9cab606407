"""Collects evidence about a turn that lost tokens: one more reading of the engine's counters and,
where nothing else can tell the cause, the same prompt once more. A turn without a loss costs
nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.hits.traffic import (
    OwnTraffic,
    Traffic,
    pressed,
    room_beside,
    traffic_between,
)
from exporter.analysis.loss.causes import Evidence, needs_repeat, on_new_rank
from exporter.analysis.reuse.repeated_prompt import Repeat, long_enough
from exporter.model.chat import CachedTokensSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.loss.session_blocks import SessionBlocks
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineSnapshot, EngineView, Rank
    from exporter.model.kv_events import LostBlocks
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.replicas import ReplicaDetector

Resend = Callable[[bool], Awaitable["Sequence[Chat] | None"]]
"""Sends the turn's prompt again for one token of answer. With True it sends it twice, overlapping
(overlapping.py). Returns every answer; None if one of them failed or has no usage."""


_EVENT_READINGS = 50
_BETWEEN_SECONDS = 0.02
"""KV events arrive a few milliseconds after the answer. One second is waited for them."""


class LossEvidence:
    """Follows one session with readings of the engine and of the exporter's own share.

    `blocks` are the session's, if the engine's KV events are received.
    """

    def __init__(
        self,
        replicas: ReplicaDetector,
        before: EngineView | None,
        requests: EngineRequests,
        blocks: SessionBlocks | None = None,
        rank: Rank | None = None,
    ) -> None:
        """`rank` is the one that the session is pinned to."""
        self._rank = rank
        self._replicas = replicas
        self._requests = requests
        self._blocks = blocks
        self._last = before.snapshot if before else None
        self._start_time = self._last.process_start_time if self._last else None
        self._restarts = before.restarts if before else None
        self._fell = False  # a counter, since the reading before
        self._own_before = requests.share
        self._ranks_used = 1
        self._missed: Repeat | None = None
        self._session_tokens = 0  # under the session's salt, since the last reading
        self._turn_prompts = 0  # prompt tokens of turns since then
        self.engine = self._last  # the latest reading that succeeded
        self.repeated = 0  # the turn whose prompt was sent again last

    def add_turn(self, turn: Chat) -> None:
        """Count the turn's tokens. Call it for each turn, in order, before `about`."""
        self._session_tokens += turn.tokens
        self._turn_prompts += turn.usage.prompt_tokens if turn.usage else 0
        if turn.cached_tokens:
            self._missed = None

    async def about(
        self, turn: Chat, expected: int, match_unit: int, earlier: Sequence[Chat], resend: Resend
    ) -> Evidence | None:
        """Evidence about `turn` if it hit less than `expected`, None otherwise.

        Cached tokens that are still unknown count as 0: a later answer may settle them.
        """
        usage = turn.usage
        if usage is None or (usage.cached_tokens or 0) >= expected:
            return None
        before = self._last
        now, traffic = await self._since_last()
        cache = self.engine.cache if self.engine else None
        started = self._start_changed(now)
        found = Evidence(
            cached=usage.cached_tokens or 0,
            expected=expected,
            prompt=usage.prompt_tokens,
            match_unit=match_unit,
            prefix_caching=cache.prefix_caching if cache else None,
            restarted=self._fell or None if started is None else started,
            ranks=self._ranks(now),
            room=room_beside(max((one.tokens for one in earlier), default=0), before, now),
            traffic=traffic,
            repeat=self._missed,
            several=self._replicas.proof,
            counters_fell=started is None and self._fell,
            ranks_used=self._ranks_used,
            blocks=await self._lost_blocks(),
        )
        if found.restarted:
            self._ranks_used = 1
        elif usage.cached_tokens == 0 and on_new_rank(found):
            self._ranks_used += 1
        if usage.cached_tokens is None or not needs_repeat(found) or self._missed is not None:
            return found
        return replace(found, repeat=await self._repeat(turn, match_unit, resend))

    async def _lost_blocks(self) -> LostBlocks | None:
        """What became of the session's blocks; None if the events do not say it in time."""
        blocks = self._blocks
        if blocks is None or not blocks.found:
            return None
        for _ in range(_EVENT_READINGS):
            lost = blocks.lost()
            if lost is not None or blocks.incomplete:
                return lost
            await self._requests.clock.sleep(_BETWEEN_SECONDS)
        return None

    def _start_changed(self, now: EngineSnapshot | None) -> bool | None:
        """Whether the process differs from the last known one; None if either start time is
        missing. Then only counters that fell show a restart.
        """
        before, after = self._start_time, now.process_start_time if now else None
        if after is not None:
            self._start_time = after
        return None if before is None or after is None else after != before

    async def _since_last(self) -> tuple[EngineSnapshot | None, Traffic | None]:
        """A new reading, and the traffic since the one before it."""
        before, own_before = self._last, self._own_before
        view = await self._replicas.next()
        seen = self._restarts if view is None else view.restarts
        self._fell = None not in (seen, self._restarts) and seen != self._restarts
        self._restarts = seen
        self._last, self._own_before = view.snapshot if view else None, self._requests.share
        self.engine = self._last or self.engine
        own = OwnTraffic.between(own_before, self._own_before, self._session_tokens)
        if self._last is not None:
            self._requests.ranks.compare(self._rank, before, self._last, self._turn_prompts)
        self._session_tokens = self._turn_prompts = 0
        return self._last, traffic_between(before, self._last, own)

    def _ranks(self, now: EngineSnapshot | None) -> int | None:
        return self._requests.ranks.answering(self._rank, now)

    async def repeat(self, turn: Chat, resend: Resend) -> tuple[int, bool] | None:
        """Send the prompt again: what it hit, and whether anything may have made that shorter."""
        answers, before = await resend(False), self._last
        if answers is None:
            return None
        self.repeated = turn.index
        self._session_tokens += sum(one.tokens for one in answers)
        (usage,) = [one.usage for one in answers]
        now, traffic = await self._since_last()
        if usage is None or usage.cached_tokens is None:
            return None
        full = pressed(traffic, room_beside(turn.tokens, before, now))
        gone = self._start_changed(now) is True or traffic is None
        return usage.cached_tokens, gone or full is not False or self._ranks(now) != 1

    async def _repeat(self, turn: Chat, match_unit: int, resend: Resend) -> Repeat | None:
        self.repeated = turn.index
        chat = await self._send_again(match_unit, resend)
        usage = chat.usage if chat else None
        if chat is None or usage is None or usage.cached_tokens is None:
            return None
        _, traffic = await self._since_last()
        ids = chat.prompt_token_ids
        known = ids is not None and turn.prompt_token_ids is not None
        same = ids == turn.prompt_token_ids if known else None
        repeat = Repeat(usage.cached_tokens, traffic, same)
        if repeat.cached == 0 and long_enough(usage.prompt_tokens, match_unit):
            self._missed = repeat  # holds until a turn hits, so later turns send no repeat
        return repeat

    async def _send_again(self, match_unit: int, resend: Resend) -> Chat | None:
        """Send the prompt again and return the answer that counts.

        After a miss something may have emptied the cache in between, so the prompt is then sent
        twice, overlapping. A process that never hit gets this once, and the second of the two
        counts: some engines serve a prompt only at its third sending, whatever the cache holds.
        """
        answers, knowledge = await resend(False), self._requests.knowledge
        if answers is None:
            return None
        self._session_tokens += sum(one.tokens for one in answers)
        (usage,) = [one.usage for one in answers]
        # Counters stand in for usage only while one request runs, so they cannot judge two at once.
        told = usage and usage.cached_tokens == 0 and usage.source is CachedTokensSource.USAGE
        tried = knowledge.tried_beside and not knowledge.hit
        if not usage or not told or tried or not long_enough(usage.prompt_tokens, match_unit):
            return answers[0]
        knowledge.tried_beside = True
        both = await resend(True)
        if both is None:
            return None
        self._session_tokens += sum(one.tokens for one in both)
        late = bool(both[0].cached_tokens) and not knowledge.hit
        found = next((one for one in both if one.cached_tokens), None)
        return answers[0] if late or found is None else found
