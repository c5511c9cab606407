"""Sends every request of the exporter to one engine, and counts them.

The counts give the exporter's own share of the engine's counters; the rest is that of other
clients.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from exporter.analysis.footprint import written_tokens
from exporter.analysis.hits.counted_hits import counters_include, looked_up, may_have_store
from exporter.analysis.hits.ranks import RankRotation
from exporter.analysis.hits.usage_details import UsageReports
from exporter.analysis.own_share import OwnShare
from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
from exporter.engine.wire.refusal import says_rank_is_gone
from exporter.engine.wire.request import RequestContext
from exporter.model.failure import FailureReason
from exporter.probe.replicas import Placement
from exporter.scenario.model import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.analysis.reuse.engine_knowledge import Remembered
    from exporter.clock import Clock
    from exporter.engine.client.engine_client import EngineClient
    from exporter.engine.events.feed import KvEventFeed
    from exporter.engine.wire.request import ChatRequest, Deadlines
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView
    from exporter.model.failure import Failure
    from exporter.probe.replicas import Observe, Sent

Identity = tuple[float | None, int]
"""Start time and restarts seen: equal if two readings are of the same process."""

_REFUSED = frozenset(
    {
        *(FailureReason.UNAUTHORIZED, FailureReason.MODEL_NOT_FOUND),
        *(FailureReason.PROMPT_TOO_LONG, FailureReason.BAD_REQUEST),
    }
)
"""Failures of requests that arrived but never reached the prefix cache."""


class ChatSender(Protocol):
    """Sends chat requests: the client, or a layer above it."""

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`."""


async def _no_admission() -> None:
    """Without admission nothing else waits to be sent."""


class EngineRequests:
    """All requests of the exporter to one engine, from every loop.

    `publish` gets each change of the exporter's own share. `yield_turn` is awaited between the
    turns of a session, so requests that are due can be sent. With `from_counters`, hits that usage
    does not report come from the engine's counters, if it ran nothing else. With `pin_ranks`, each
    session runs on one data-parallel rank. `kv_events` are the engine's, if they are received.
    """

    def __init__(
        self,
        client: EngineClient,
        observe: Observe,
        clock: Clock,
        *,
        from_counters: bool = False,
        pin_ranks: bool = False,
        first_rank: int = 0,
        publish: Callable[[OwnShare], None] = lambda _change: None,
        yield_turn: Callable[[], Awaitable[None]] = _no_admission,
        recall: Callable[[float], Remembered | None] = lambda _start: None,
        kv_events: KvEventFeed | None = None,
    ) -> None:
        """`recall` gives what was kept of a process, by its start time."""
        self.client = client
        self.observe = observe
        self.clock = clock
        self.from_counters = from_counters
        self.kv_events = kv_events
        self.ranks = RankRotation(pinned=pin_ranks, first=first_rank)
        self.share = OwnShare()
        self.reports = UsageReports()
        self.knowledge = EngineKnowledge()
        self.process: Identity | None = None
        self.latest: EngineSnapshot | None = None
        self.counters_lag = False  # they still lacked our requests when the readings ended
        self.complete = True  # the latest reading includes all requests sent before it
        self._base: tuple[EngineSnapshot, int] | None = None  # a complete one, own prompts by then
        self.placement = Placement(observe, clock)
        self.yield_turn = yield_turn
        self._publish = publish
        self._recall = recall

    def continue_from(self, other: EngineRequests) -> None:
        """Take what another one has learned of the same engine process."""
        self.process, self.reports, self.knowledge = other.process, other.reports, other.knowledge

    async def rest(self, view: EngineView | None) -> FailureReason | None:
        """Whether the engine says that it sleeps, is paused or is being scaled. /metrics comes
        first: a paused engine says elsewhere that it sleeps, too.
        """
        asleep = view is not None and view.snapshot is not None and view.snapshot.asleep
        return FailureReason.ASLEEP if asleep else await self.client.rest()

    def new_session(self, view: EngineView | None, info: EngineInfo) -> RequestContext:
        """The context of a new session, with the next rank if sessions are pinned.

        `view` is the latest reading.
        """
        rank = self.ranks.next(one_engine(view), info.version)
        return RequestContext(secrets.token_hex(16), rank=rank)

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`; counts the request."""
        return await self.placement.placed(lambda: self._sent(request, deadlines, on_token))

    async def _sent(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None,
    ) -> Sent:
        self.add_share(OwnShare(in_flight=1))
        ended = OwnShare(in_flight=-1, unknown=1)
        try:
            chat = await self.client.chat(request, deadlines, on_token)
            usage = self.knowledge.hits_only(chat.usage)
            if usage is not None and may_have_store(self.latest):
                usage = replace(usage, store=True)
            chat = replace(chat, usage=usage)
            ended = self._share_of(chat, request)
            self._note_rank(request.context, chat.failure)
        finally:
            self.add_share(replace(ended, last_ended_at=self.clock.monotonic()))
        return chat, ended

    def _note_rank(self, context: RequestContext | None, failure: Failure | None) -> None:
        rank = None if context is None else context.rank
        if rank is not None and failure is not None and says_rank_is_gone(failure):
            self.ranks.gone.add(rank.label)

    def add_share(self, change: OwnShare) -> None:
        """Add to the share, and publish the change."""
        self.share = self.share.plus(change)
        self._publish(change)

    def forget(self) -> None:
        """Drop what is known of the engine process, because it has ended."""
        self.knowledge = EngineKnowledge(self.knowledge.hints)
        self.ranks.forget()

    def note_process(self, view: EngineView | None) -> Identity | None:
        """Note which process a reading is of, and return it; None if that is unknown."""
        snapshot = one_engine(view) or _replicas(view)
        if view is None or snapshot is None:
            return None
        self.placement.active = snapshot.own_pages
        self.latest = snapshot
        start = snapshot.process_start_time
        if start is None and snapshot.prompt_tokens is None:
            return None  # a restart could not be seen
        process = (start, view.restarts)
        if process != self.process:
            self.process, self.reports, self.counters_lag = process, UsageReports(), False
            self._base = None
            self.forget()
            known = None if start is None else self._recall(start)
            if known is not None:
                self.knowledge.recall(known)
        self._check_complete(snapshot)
        return process

    def stop_waiting(self) -> None:
        """Wait no longer for a reading that includes all requests.

        The next base is a reading after a quiet time without own requests.
        """
        self.counters_lag, self._base = True, None

    def _check_complete(self, snapshot: EngineSnapshot) -> None:
        """Compare a reading with the last complete one and the prompts sent since."""
        if self.share.in_flight:
            return  # it may include part of a running request
        prompts = self.share.prompt_tokens
        if self._base is None:
            self.complete = self.share.quiet(self.clock.monotonic())
        else:
            self.complete = counters_include(self._base[0], snapshot, prompts - self._base[1])
        if self.complete:
            self._base = snapshot, prompts

    def written(self, usage: Usage) -> int:
        """The new KV that a request left in the cache, by all that its usage says now."""
        cache = self.latest.cache if self.latest is not None else None
        cached, answer = usage.local_tokens, usage.completion_tokens
        return written_tokens(usage.prompt_tokens, cached, answer, cache)

    def _share_of(self, chat: Chat, request: ChatRequest) -> OwnShare:
        """What one request adds to the exporter's share."""
        usage, failure = chat.usage, chat.failure
        if usage is None:
            may_count = failure is None or (
                failure.reason.may_have_arrived and failure.reason not in _REFUSED
            )
            sent = int(may_count) + chat.sent_twice
            # How much of it the engine computed is not known: at most a prompt that is all new.
            guess = estimate_tokens(request.messages, request.tools) if sent else 0
            return OwnShare(in_flight=-1, unknown=sent, written_tokens=guess)
        prompt = usage.prompt_tokens
        return OwnShare(
            in_flight=-1,
            unknown=int(chat.sent_twice),
            requests=1,
            settled=int(usage.cached_tokens is not None),
            prompt_tokens=prompt,
            queried_tokens=prompt if self.latest is None else looked_up(self.latest, prompt),
            hit_tokens=usage.cached_tokens or 0,
            unsplit=int(usage.store and bool(usage.cached_tokens)),
            completion_tokens=usage.completion_tokens,
            written_tokens=self.written(usage),
        )


def _replicas(view: EngineView | None) -> EngineSnapshot | None:
    """The reading if it is of replicas that have pages of their own: together they are the engine
    whose reuse rule and capabilities are learned.
    """
    if view is None or view.snapshot is None or view.mixed or not view.snapshot.own_pages:
        return None
    return view.snapshot


def one_engine(view: EngineView | None) -> EngineSnapshot | None:
    """The reading if it is of one engine. A router's page may leave counters at 0."""
    if view is None or view.snapshot is None or view.mixed or view.snapshot.parts:
        return None
    return view.snapshot
