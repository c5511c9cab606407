"""Sends every request of the exporter to one engine, and counts them.

The counts give the exporter's own share of the engine's counters; the rest is that of other
clients. Where an answer does not report its cached tokens, later answers or the engine's counters
settle them (analysis/cache/usage_details.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from exporter.analysis.cache.counted_hits import (
    counted_hits,
    counters_include,
    looked_up,
    no_hits,
    ran_alone,
)
from exporter.analysis.cache.engine_knowledge import EngineKnowledge
from exporter.analysis.cache.usage_details import SilentAnswer, UsageReports
from exporter.analysis.own_share import OwnShare
from exporter.model.failure import FailureReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.clock import Clock
    from exporter.engine.client.engine_client import EngineClient
    from exporter.engine.wire.request import ChatRequest, Deadlines
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView
    from exporter.probe.replicas import Observe

Identity = tuple[float | None, int]
"""Start time and restarts seen: equal if two readings are of the same process."""

_READINGS = 22
_BETWEEN_SECONDS = 0.05
"""vLLM counts a step after it has sent the step's tokens, so a stream may end before its tokens are
counted. Readings are repeated for a little more than a second."""
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
    does not report come from the engine's counters, if it ran nothing else.
    """

    def __init__(
        self,
        client: EngineClient,
        observe: Observe,
        clock: Clock,
        *,
        from_counters: bool = False,
        publish: Callable[[OwnShare], None] = lambda _change: None,
        yield_turn: Callable[[], Awaitable[None]] = _no_admission,
    ) -> None:
        self.client = client
        self.observe = observe
        self.clock = clock
        self.from_counters = from_counters
        self.share = OwnShare()
        self.reports = UsageReports()
        self.knowledge = EngineKnowledge()
        self.process: Identity | None = None
        self.latest: EngineSnapshot | None = None
        self.counters_lag = False  # they still lacked our requests when the readings ended
        self.complete = True  # the latest reading includes all requests sent before it
        self._base: tuple[EngineSnapshot, int] | None = None  # a complete one, own prompts by then
        self.yield_turn = yield_turn
        self._publish = publish

    def continue_from(self, other: EngineRequests) -> None:
        """Take what another one has learned of the same engine process."""
        self.process, self.reports, self.knowledge = other.process, other.reports, other.knowledge

    def scope(self, info: EngineInfo, view: EngineView | None) -> RequestScope:
        """Sends the requests of one session, isolation test or retention round.

        `view` is a new reading.
        """
        scope = RequestScope(self, info, view)
        self.client.note_process(self.process)
        cache = view.snapshot.cache if view and view.snapshot else None
        self.knowledge.label = cache.match_unit_tokens if cache else None
        return scope

    def add_share(self, change: OwnShare) -> None:
        """Add to the share, and publish the change."""
        self.share = self.share.plus(change)
        self._publish(change)

    def forget(self) -> None:
        """Drop what is known of the engine process, because it has ended."""
        label, self.knowledge = self.knowledge.label, EngineKnowledge()
        self.knowledge.label = label

    def note_process(self, view: EngineView | None) -> Identity | None:
        """Note which process a reading is of, and return it; None if that is unknown."""
        snapshot = one_engine(view)
        if view is None or snapshot is None:
            return None
        self.latest = snapshot
        start = snapshot.process_start_time
        if start is None and snapshot.prompt_tokens is None:
            return None  # a restart could not be seen
        process = (start, view.restarts)
        if process != self.process:
            self.process, self.reports, self.counters_lag = process, UsageReports(), False
            self._base = None
            self.forget()
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


@dataclass(frozen=True, slots=True)
class _Given:
    """An answer that did not report cached tokens, and its usage as returned last."""

    usage: Usage
    silent: SilentAnswer


class RequestScope:
    """Sends requests, and settles the cached tokens of their answers.

    What an answer shows is kept for the engine process, or for this scope while the process is
    unknown. `sent_tokens` are prompt and completion tokens of all its requests.
    """

    def __init__(self, requests: EngineRequests, info: EngineInfo, view: EngineView | None) -> None:
        self._requests = requests
        self._info = info
        self._reports = UsageReports()  # of this scope alone
        self._given: dict[int, _Given] = {}  # by the identity of the usage
        self._pending: list[tuple[Usage, Identity]] = []  # no reading succeeded after them yet
        self._process = self._known = requests.note_process(view)
        self.sent_tokens = 0

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`, with cached tokens wherever they are known."""
        # Counters cannot tell apart two requests that run at the same time.
        alone_here = self._requests.share.in_flight == 0
        before = await self._reading_before() if alone_here and self._counters_may_tell() else None
        sent_to = self._known
        chat = await self._send(request, deadlines, on_token)
        usage = chat.usage
        if usage is not None and usage.cached_tokens is not None:
            self._note_report(usage.cached_tokens)
        if usage is None or usage.cached_tokens is not None or chat.failure is not None:
            return chat
        if usage.transferred:
            return chat
        silent = await self._settle(usage, before, sent_to)
        known = silent.settled(from_counters=self._requests.from_counters)
        self._given[id(known)] = _Given(known, silent)
        return replace(chat, usage=known)

    def settled(self, usage: Usage) -> Usage:
        """The usage of an answer of this scope, by all that is known now."""
        given = self._given_for(usage)
        if given is None:
            return usage
        known = given.silent.settled(from_counters=self._requests.from_counters)
        if known == usage:
            return usage
        del self._given[id(usage)]
        self._given[id(known)] = _Given(known, given.silent)
        return known

    def lacks(self, usage: Usage) -> bool:
        """Whether this answer should have reported its cached tokens, and did not."""
        given = self._given_for(usage)
        return given is not None and given.silent.reports.lacks(self._info.version)

    def _given_for(self, usage: Usage) -> _Given | None:
        given = self._given.get(id(usage))
        return given if given is not None and given.usage is usage else None

    def _counters_may_tell(self) -> bool:
        requests = self._requests
        reports = self._reports if self._process is None else requests.reports
        wanted = requests.from_counters and (reports.silent or not reports.reported_zero)
        return wanted or reports.counters_may_help(self._info.version)

    async def _reading_before(self) -> EngineSnapshot | None:
        """A reading that includes all earlier requests; None if there is none."""
        requests = self._requests
        for attempt in range(1 if requests.counters_lag else _READINGS):
            if attempt:
                await requests.clock.sleep(_BETWEEN_SECONDS)
            snapshot = await self._read()
            if snapshot is None or snapshot.hit_tokens is None:
                return None
            if requests.complete:
                requests.counters_lag = False
                return snapshot
        requests.stop_waiting()
        return None

    async def _send(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None,
    ) -> Chat:
        requests = self._requests
        requests.add_share(OwnShare(in_flight=1))
        ended = OwnShare(in_flight=-1, unknown=1)
        try:
            chat = await requests.client.chat(request, deadlines, on_token)
            chat = replace(chat, usage=requests.knowledge.hits_only(chat.usage))
            ended = self._share_of(chat)
        finally:
            requests.add_share(replace(ended, last_ended_at=requests.clock.monotonic()))
        return chat

    def _share_of(self, chat: Chat) -> OwnShare:
        """What one request adds to the exporter's share."""
        usage, failure = chat.usage, chat.failure
        if usage is None:
            may_count = failure is None or (
                failure.reason.may_have_arrived and failure.reason not in _REFUSED
            )
            return OwnShare(in_flight=-1, unknown=int(may_count) + chat.sent_twice)
        latest, prompt = self._requests.latest, usage.prompt_tokens
        self.sent_tokens += prompt + usage.completion_tokens
        return OwnShare(
            in_flight=-1,
            unknown=int(chat.sent_twice),
            requests=1,
            settled=int(usage.cached_tokens is not None),
            prompt_tokens=prompt,
            queried_tokens=prompt if latest is None else looked_up(latest, prompt),
            hit_tokens=usage.cached_tokens or 0,
            completion_tokens=usage.completion_tokens,
        )

    def _note_report(self, cached_tokens: int) -> None:
        for reports in self._current():
            reports.add(cached_tokens)
            if reports.absent_is_zero and reports.unsettled:
                self._requests.add_share(OwnShare(settled=reports.unsettled))
                reports.unsettled = 0

    async def _settle(
        self, usage: Usage, before: EngineSnapshot | None, sent_to: Identity | None
    ) -> SilentAnswer:
        """Settle an answer without cached tokens as far as that is possible now.

        It belongs to the process that a reading right after it shows, because no process starts
        within milliseconds. If that reading fails, it belongs to `sent_to`, the process before it,
        provided that a later reading shows that process again.
        """
        after = await self._read()
        reports = self._current() or [UsageReports()]
        if self._process is None and sent_to is not None:
            self._pending.append((usage, sent_to))
        silent = SilentAnswer(usage, reports[0])
        if before is not None:
            silent = await self._by_counters(silent, before, after)
        for each in reports:
            each.silent = True
            each.hid_hit = each.hid_hit or bool(silent.counted)
        self._count_hits(silent)
        return silent

    def _count_hits(self, silent: SilentAnswer) -> None:
        told = 0 if silent.reports.absent_is_zero else silent.known
        if told is None:
            silent.reports.unsettled += 1
        else:
            self._requests.add_share(OwnShare(settled=1, hit_tokens=told))

    def _settle_pending(self) -> None:
        """Settle the answers whose process was unknown until now."""
        for usage, sent_to in self._pending:
            given = self._given_for(usage)
            if given is not None and sent_to == self._process:
                silent = replace(given.silent, reports=self._requests.reports)
                silent.reports.silent = True
                self._given[id(usage)] = _Given(usage, silent)
                self._count_hits(silent)
        self._pending.clear()

    async def _by_counters(
        self, silent: SilentAnswer, before: EngineSnapshot, after: EngineSnapshot | None
    ) -> SilentAnswer:
        """Add what the counters say, once they include this prompt."""
        requests, prompt = self._requests, silent.usage.prompt_tokens
        left = 1 if requests.counters_lag else _READINGS
        while after is not None and before.process_start_time == after.process_start_time:
            silent = replace(
                silent,
                no_hits=no_hits(before, after, prompt),
                counted=counted_hits(before, after, prompt),
            )
            included, left = counters_include(before, after, prompt), left - 1
            if (
                silent.known is not None
                or left == 0
                or (included and not ran_alone(before, after, prompt))
            ):
                requests.counters_lag = not included
                break
            await requests.clock.sleep(_BETWEEN_SECONDS)
            after = await self._read()
        return silent

    def _current(self) -> list[UsageReports]:
        """The reports that an answer now belongs to. The first ones settle it."""
        if self._process is not None:
            return [self._requests.reports, self._reports]
        return [self._reports] if self._known is None else []  # the process may be a new one

    async def _read(self) -> EngineSnapshot | None:
        """A new reading. It also shows which process answers."""
        view = await self._requests.observe()
        self._process = self._requests.note_process(view)
        if self._process is not None:
            if self._known not in (None, self._process):
                self._reports = UsageReports()
            self._known = self._process
            self._settle_pending()
        return one_engine(view)


def one_engine(view: EngineView | None) -> EngineSnapshot | None:
    """The reading if it is of one engine. A router's page may leave counters at 0."""
    if view is None or view.snapshot is None or view.mixed or view.snapshot.parts:
        return None
    return view.snapshot
