"""Collects evidence about a turn that lost tokens: one more reading of the engine's counters and,
where nothing else can tell the cause, the same prompt once more. A turn without a loss costs
nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.analysis.hits.routing import Hop, hop
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
from exporter.model.engine import OWN_PAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.analysis.loss.session_blocks import SessionBlocks
    from exporter.analysis.own_share import OwnShare
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineSnapshot, EngineView, PartKey, Rank
    from exporter.model.kv_events import LostBlocks
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.replicas import ReplicaDetector

Resend = Callable[[bool], Awaitable["Sequence[Chat] | None"]]
"""Sends the turn's prompt again for one token of answer. With True it sends it twice, overlapping
(overlapping.py). Returns every answer; None if one of them failed or has no usage."""


_EVENT_READINGS = 50
_BETWEEN_SECONDS = 0.02
"""KV events arrive a few milliseconds after the answer. One second is waited for them."""

OTHER_REPLICA = (
    "the turn ran on another replica than the turn before it, by the replicas' own counters"
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The last reading of one engine, and the exporter's own share of its counters by then.

    `session_tokens` are those under the session's salt since that reading, `turn_prompts` the
    prompt tokens of the turns among them. `restarts` counts those
    that the readings showed so far; None for a replica, because they are counted for all together.
    """

    snapshot: EngineSnapshot | None
    share: OwnShare
    start_time: float | None = None
    restarts: int | None = None
    session_tokens: int = 0
    turn_prompts: int = 0


@dataclass(frozen=True, slots=True)
class _Change:
    """A new reading of one engine, and what happened since the one before it.

    `started`: the process started after the last known one; None if a start time is missing. Then
    only counters that fell (`fell`) show a restart.
    """

    now: EngineSnapshot | None = None
    traffic: Traffic | None = None
    started: bool | None = None
    fell: bool = False


class LossEvidence:
    """Follows one session with readings of the engine and of the exporter's own share.

    `blocks` are the session's, if the engine's KV events are received.

    Where replicas have pages of their own, each turn is compared with the readings of the replica
    that computed it.
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
        self._blocks = blocks
        self._replicas = replicas
        self._requests = requests
        self.engine = before.snapshot if before else None  # the latest reading that succeeded
        self._seen: dict[PartKey, _Seen] = {}
        self._hop = Hop.ONE_ENGINE
        self._replica: PartKey | None = None  # of the last turn
        self._turns = 0
        self._ranks_used = 1
        self._missed: Repeat | None = None
        self.repeated = 0  # the turn whose prompt was sent again last
        for key in self._keys(self.engine):
            self._seen[key] = self._look(key, before)

    @property
    def undisturbed(self) -> bool:
        """Whether the last turn ran on the engine that computed the turn before it."""
        return self._hop in (Hop.ONE_ENGINE, Hop.SAME_REPLICA)

    def add_turn(self, turn: Chat) -> None:
        """Count the turn's tokens. Call it for each turn, in order, before `about`."""
        first, self._turns = not self._turns, self._turns + 1
        before = turn.replica if first else self._replica
        self._hop = hop(before, turn.replica) if self._routed else Hop.ONE_ENGINE
        self._replica = turn.replica
        self._add_tokens(turn, prompts=turn.usage.prompt_tokens if turn.usage else 0)
        if turn.cached_tokens or not self.undisturbed:
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
        moved, key = self._hop is Hop.OTHER_REPLICA, self._key(turn)
        before = None if key is None else self._last(key)
        change = await self._since_last(key)
        now, started = change.now, change.started
        cache = self.engine.cache if self.engine else None
        found = Evidence(
            cached=usage.cached_tokens or 0,
            expected=expected,
            prompt=usage.prompt_tokens,
            match_unit=match_unit,
            prefix_caching=cache.prefix_caching if cache else None,
            restarted=change.fell or None if started is None else started,
            ranks=self._ranks(now),
            room=room_beside(max((one.tokens for one in earlier), default=0), before, now),
            traffic=change.traffic,
            repeat=self._missed,
            several=self._replicas.proof or (OTHER_REPLICA if moved else None),
            unplaced=self._hop is Hop.UNKNOWN,
            counters_fell=started is None and change.fell,
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

    def _ranks(self, now: EngineSnapshot | None) -> int | None:
        return self._requests.ranks.answering(self._rank, now)

    @property
    def _routed(self) -> bool:
        return self.engine is not None and self.engine.own_pages

    def _key(self, chat: Chat) -> PartKey | None:
        """The engine that computed a request; None if it is an unknown replica."""
        return chat.replica if self._routed else OWN_PAGE

    def _add_tokens(self, *answers: Chat, prompts: int = 0) -> None:
        """Count what was sent under the session's salt; `prompts` are tokens of a turn's prompt."""
        for one in answers:
            key = self._key(one)
            if key is not None and key in self._seen:
                seen = self._seen[key]
                self._seen[key] = replace(
                    seen,
                    session_tokens=seen.session_tokens + one.tokens,
                    turn_prompts=seen.turn_prompts + prompts,
                )

    def _keys(self, snapshot: EngineSnapshot | None) -> Iterable[PartKey]:
        return snapshot.parts if snapshot is not None and snapshot.own_pages else (OWN_PAGE,)

    def _last(self, key: PartKey) -> EngineSnapshot | None:
        return self._seen[key].snapshot if key in self._seen else None

    def _look(self, key: PartKey, view: EngineView | None) -> _Seen:
        """What is known of one engine by a reading of all."""
        whole = view.snapshot if view else None
        snapshot = whole.parts.get(key) if whole is not None and key != OWN_PAGE else whole
        placement, known = self._requests.placement, self._seen.get(key)
        share = self._requests.share if key == OWN_PAGE else placement.share(key)
        start = snapshot.process_start_time if snapshot else None
        restarts = view.restarts if view is not None and key == OWN_PAGE else None
        if known is not None:  # a reading that failed tells nothing of a restart
            start = known.start_time if start is None else start
            restarts = known.restarts if view is None else restarts
        return _Seen(snapshot, share, start, restarts)

    async def _since_last(self, key: PartKey | None) -> _Change:
        """A new reading of one engine; all is unknown for an unknown replica."""
        view = await self._replicas.next()
        self.engine = (view.snapshot if view else None) or self.engine
        if key is None:
            return _Change()
        before = self._seen.get(key)
        seen = self._seen[key] = self._look(key, view)
        if before is None:
            return _Change(seen.snapshot)
        if seen.snapshot is not None:
            self._requests.ranks.compare(
                self._rank, before.snapshot, seen.snapshot, before.turn_prompts
            )
        own = OwnTraffic.between(before.share, seen.share, before.session_tokens)
        start = seen.snapshot.process_start_time if seen.snapshot else None
        unknown = start is None or before.start_time is None
        known = None not in (seen.restarts, before.restarts)
        return _Change(
            seen.snapshot,
            traffic_between(before.snapshot, seen.snapshot, own),
            None if unknown else start != before.start_time,
            fell=known and seen.restarts != before.restarts,
        )

    async def repeat(self, turn: Chat, resend: Resend) -> tuple[int, bool] | None:
        """Send the prompt again: what it hit, and whether anything may have made that shorter."""
        answers = await resend(False)
        if answers is None:
            return None
        self.repeated = turn.index
        self._add_tokens(*answers)
        (again,) = answers
        key = self._key(turn)
        before = None if key is None else self._last(key)
        change = await self._since_last(key)
        now, traffic, usage = change.now, change.traffic, again.usage
        if usage is None or usage.local_tokens is None:
            return None
        full = pressed(traffic, room_beside(turn.tokens, before, now))
        gone = change.started is True or traffic is None or again.replica != turn.replica
        unsure = gone or bool(usage.external_tokens) or full is not False
        return usage.local_tokens, unsure or self._ranks(now) != 1

    async def _repeat(self, turn: Chat, match_unit: int, resend: Resend) -> Repeat | None:
        self.repeated = turn.index
        chat = await self._send_again(match_unit, resend)
        usage = chat.usage if chat else None
        if chat is None or usage is None or usage.cached_tokens is None:
            return None
        if chat.replica != turn.replica:
            return None  # the cache of another replica
        change = await self._since_last(self._key(turn))
        ids = chat.prompt_token_ids
        known = ids is not None and turn.prompt_token_ids is not None
        same = ids == turn.prompt_token_ids if known else None
        repeat = Repeat(usage.cached_tokens, change.traffic, same)
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
        self._add_tokens(*answers)
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
        self._add_tokens(*both)
        late = bool(both[0].cached_tokens) and not knowledge.hit
        found = next((one for one in both if one.cached_tokens), None)
        return answers[0] if late or found is None else found
