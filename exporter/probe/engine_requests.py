"""What the exporter asks of one engine: every request goes through `EngineRequests`.

It counts them, so that everybody else's share of the engine's counters is known, and it settles
how many tokens were cached where an answer does not tell (analysis/cache/usage_details.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from exporter.analysis.cache.counted_hits import alone, counted, looked_up, no_hits, seen
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
"""Start time, and restarts seen: what makes sure that two readings are of one process."""

_LOOKS = 22
_BETWEEN_SECONDS = 0.05
"""vLLM counts a step after it has sent the step's tokens, so the end of a stream may be early: it
is waited for a little longer than a second."""
_NEVER_LOOKED_UP = frozenset(
    {
        *(FailureReason.CONNECTION_REFUSED, FailureReason.CONNECT_FAILED),
        *(FailureReason.CONNECT_TIMEOUT, FailureReason.NO_DESCRIPTORS),
        *(FailureReason.UNAUTHORIZED, FailureReason.MODEL_NOT_FOUND),
        *(FailureReason.PROMPT_TOO_LONG, FailureReason.BAD_REQUEST),
        FailureReason.PAUSED,
    }
)
"""Failures of requests that did not come as far as the prefix cache."""


class Chats(Protocol):
    """Whatever sends requests: the client, or what stands before it."""

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`."""


async def _nobody_waits() -> None:
    """There is no gate, and so nobody who waits at it."""


class EngineRequests:
    """All requests of the exporter to one engine, of whatever loop.

    `publish` gets every change of the exporter's own share. `step_aside` is awaited between the
    turns of a session, and lets others ask. With `from_counters`, hits that usage
    does not tell are taken from the engine's counters where it ran nothing else.
    """

    def __init__(
        self,
        client: EngineClient,
        observe: Observe,
        clock: Clock,
        *,
        from_counters: bool = False,
        publish: Callable[[OwnShare], None] = lambda _change: None,
        step_aside: Callable[[], Awaitable[None]] = _nobody_waits,
    ) -> None:
        self.client = client
        self.observe = observe
        self.clock = clock
        self.from_counters = from_counters
        self.share = OwnShare()
        self.shown = UsageReports()
        self.knowledge = EngineKnowledge()
        self.process: Identity | None = None
        self.latest: EngineSnapshot | None = None
        self.uncounted = False
        self.complete = True  # the latest reading has all in it that was asked before
        self._base: tuple[EngineSnapshot, int] | None = None
        self.step_aside = step_aside
        self._publish = publish

    def take_over(self, other: EngineRequests) -> None:
        """Go on with what another one has learned of the same engine's process."""
        self.process, self.shown, self.knowledge = other.process, other.shown, other.knowledge

    def scope(self, info: EngineInfo, view: EngineView | None) -> Scope:
        """For the requests of one session, one test or one pass; `view` is a fresh look."""
        scope = Scope(self, info, view)
        cache = view.snapshot.cache if view and view.snapshot else None
        self.knowledge.label = cache.match_unit_tokens if cache else None
        return scope

    def changed(self, change: OwnShare) -> None:
        """Add to the share, and publish what was added."""
        self.share = self.share.plus(change)
        self._publish(change)

    def forget(self) -> None:
        """The process that answered has ended."""
        label, self.knowledge = self.knowledge.label, EngineKnowledge()
        self.knowledge.label = label

    def seen(self, view: EngineView | None) -> Identity | None:
        """Note the process that was read last; None where it is not known which that is."""
        snapshot = one_engine(view)
        if view is None or snapshot is None:
            return None
        self.latest = snapshot
        start = snapshot.process_start_time
        if start is None and snapshot.prompt_tokens is None:
            return None  # nothing would show a restart
        process = (start, view.restarts)
        if process != self.process:
            self.process, self.shown, self.uncounted = process, UsageReports(), False
            self._base = None
            self.forget()
        self._hold_to_base(snapshot)
        return process

    def give_up_waiting(self) -> None:
        """The page does not show what was asked: wait no more for that, and begin at what it shows
        once nothing was asked for a while.
        """
        self.uncounted, self._base = True, None

    def _hold_to_base(self, snapshot: EngineSnapshot) -> None:
        """Hold a reading to the last complete one, and to the prompts that were sent since."""
        if self.share.in_flight:
            return  # it may have some of what is being answered
        prompts = self.share.prompt_tokens
        if self._base is None:
            self.complete = self.share.quiet(self.clock.monotonic())
        else:
            self.complete = seen(self._base[0], snapshot, prompts - self._base[1])
        if self.complete:
            self._base = snapshot, prompts


@dataclass(frozen=True, slots=True)
class _Given:
    """A silent answer, and its usage as it was given last."""

    usage: Usage
    silent: SilentAnswer


class Scope:
    """Sends requests as the client does. What one of its answers shows about cached tokens is
    remembered for the engine's process, or within this scope where that is not known.

    `asked_tokens` are prompt and completion tokens of all its requests.
    """

    def __init__(self, requests: EngineRequests, info: EngineInfo, view: EngineView | None) -> None:
        self._requests = requests
        self._info = info
        self._shown = UsageReports()  # by answers of this scope
        self._given: dict[int, _Given] = {}  # by the identity of the usage
        self._pending: list[tuple[Usage, Identity]] = []  # no reading has followed them yet
        self._process = self._known = requests.seen(view)
        self.asked_tokens = 0

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`, with cached tokens wherever they are known."""
        # The counters do not tell apart what is asked at the same time.
        alone_here = self._requests.share.in_flight == 0
        before = await self._before() if alone_here and self._counters_may_tell() else None
        sent_to = self._known
        chat = await self._sent(request, deadlines, on_token)
        usage = chat.usage
        if usage is not None and usage.cached_tokens is not None:
            self._told(usage.cached_tokens)
        if usage is None or usage.cached_tokens is not None or chat.failure is not None:
            return chat
        if usage.transferred:
            return chat
        silent = await self._judge(usage, before, sent_to)
        known = silent.settled(from_counters=self._requests.from_counters)
        self._given[id(known)] = _Given(known, silent)
        return replace(chat, usage=known)

    def settled(self, usage: Usage) -> Usage:
        """The usage that an answer of this scope had, by all that was learned since."""
        given = self._given_as(usage)
        if given is None:
            return usage
        known = given.silent.settled(from_counters=self._requests.from_counters)
        if known == usage:
            return usage
        del self._given[id(usage)]
        self._given[id(known)] = _Given(known, given.silent)
        return known

    def lacks(self, usage: Usage) -> bool:
        """Whether this answer should have told its cached tokens, and did not."""
        given = self._given_as(usage)
        return given is not None and given.silent.shown.lacks(self._info.version)

    def _given_as(self, usage: Usage) -> _Given | None:
        given = self._given.get(id(usage))
        return given if given is not None and given.usage is usage else None

    def _counters_may_tell(self) -> bool:
        requests = self._requests
        shown = self._shown if self._process is None else requests.shown
        wanted = requests.from_counters and (shown.silent or not shown.told_zero)
        return wanted or shown.counters_may_tell(self._info.version)

    async def _before(self) -> EngineSnapshot | None:
        """A reading that has all in it that was asked before; None where there is none."""
        requests = self._requests
        for looks in range(1 if requests.uncounted else _LOOKS):
            if looks:
                await requests.clock.sleep(_BETWEEN_SECONDS)
            snapshot = await self._look()
            if snapshot is None or snapshot.hit_tokens is None:
                return None
            if requests.complete:
                requests.uncounted = False
                return snapshot
        requests.give_up_waiting()
        return None

    async def _sent(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None,
    ) -> Chat:
        requests = self._requests
        requests.changed(OwnShare(in_flight=1))
        ended = OwnShare(in_flight=-1, unknown=1)
        try:
            chat = await requests.client.chat(request, deadlines, on_token)
            chat = replace(chat, usage=requests.knowledge.hits_only(chat.usage))
            ended = self._counted(chat)
        finally:
            requests.changed(replace(ended, last_ended_at=requests.clock.monotonic()))
        return chat

    def _counted(self, chat: Chat) -> OwnShare:
        """What one request changes of the exporter's share."""
        usage, failure = chat.usage, chat.failure
        if usage is None:
            may_have_arrived = failure is None or failure.reason not in _NEVER_LOOKED_UP
            return OwnShare(in_flight=-1, unknown=int(may_have_arrived) + chat.sent_twice)
        latest, prompt = self._requests.latest, usage.prompt_tokens
        self.asked_tokens += prompt + usage.completion_tokens
        return OwnShare(
            in_flight=-1,
            unknown=int(chat.sent_twice),
            requests=1,
            told=int(usage.cached_tokens is not None),
            prompt_tokens=prompt,
            queried_tokens=prompt if latest is None else looked_up(latest, prompt),
            hit_tokens=usage.cached_tokens or 0,
            completion_tokens=usage.completion_tokens,
        )

    def _told(self, cached_tokens: int) -> None:
        for shown in self._current():
            shown.told(cached_tokens)
            if shown.absent_is_zero and shown.untold:
                self._requests.changed(OwnShare(told=shown.untold))
                shown.untold = 0

    async def _judge(
        self, usage: Usage, before: EngineSnapshot | None, sent_to: Identity | None
    ) -> SilentAnswer:
        """What an answer without cached tokens is to be taken for.

        It is the process's that is read right after it: none starts within milliseconds. Where that
        cannot be read, it is that of `sent_to`, the one known before, if that is read again later.
        """
        after = await self._look()
        shown = self._current() or [UsageReports()]
        if self._process is None and sent_to is not None:
            self._pending.append((usage, sent_to))
        silent = SilentAnswer(usage, shown[0])
        if before is not None:
            silent = await self._by_counters(silent, before, after)
        for each in shown:
            each.silent = True
            each.hid_hit = each.hid_hit or bool(silent.counted)
        self._count_hits(silent)
        return silent

    def _count_hits(self, silent: SilentAnswer) -> None:
        told = 0 if silent.shown.absent_is_zero else silent.known
        if told is None:
            silent.shown.untold += 1
        else:
            self._requests.changed(OwnShare(told=1, hit_tokens=told))

    def _resolve(self) -> None:
        """Whose the answers were that no reading had followed yet."""
        for usage, sent_to in self._pending:
            given = self._given_as(usage)
            if given is not None and sent_to == self._process:
                silent = replace(given.silent, shown=self._requests.shown)
                silent.shown.silent = True
                self._given[id(usage)] = _Given(usage, silent)
                self._count_hits(silent)
        self._pending.clear()

    async def _by_counters(
        self, silent: SilentAnswer, before: EngineSnapshot, after: EngineSnapshot | None
    ) -> SilentAnswer:
        """With what the counters say, once they have this prompt in them."""
        requests, prompt = self._requests, silent.usage.prompt_tokens
        looks = 1 if requests.uncounted else _LOOKS
        while after is not None and before.process_start_time == after.process_start_time:
            silent = replace(
                silent,
                no_hits=no_hits(before, after, prompt),
                counted=counted(before, after, prompt),
            )
            is_in, looks = seen(before, after, prompt), looks - 1
            if (
                silent.known is not None
                or looks == 0
                or (is_in and not alone(before, after, prompt))
            ):
                requests.uncounted = not is_in
                break
            await requests.clock.sleep(_BETWEEN_SECONDS)
            after = await self._look()
        return silent

    def _current(self) -> list[UsageReports]:
        """What the answers that come now are evidence of; first what they are to be judged by."""
        if self._process is not None:
            return [self._requests.shown, self._shown]
        return [self._shown] if self._known is None else []  # it may be another process

    async def _look(self) -> EngineSnapshot | None:
        """A reading; with it, which process answers now."""
        view = await self._requests.observe()
        self._process = self._requests.seen(view)
        if self._process is not None:
            if self._known not in (None, self._process):
                self._shown = UsageReports()
            self._known = self._process
            self._resolve()
        return one_engine(view)


def one_engine(view: EngineView | None) -> EngineSnapshot | None:
    """The reading, if it is of one engine's own page: a router's may leave counters at 0."""
    if view is None or view.snapshot is None or view.mixed or view.snapshot.parts:
        return None
    return view.snapshot
