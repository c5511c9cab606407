"""The loop that writes prefixes and reads them after their gaps, on a schedule of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from exporter.analysis import retention
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.errors import EngineUnavailableError
from exporter.model.probe import RetentionReading, RetentionUnknown
from exporter.probe.engine_requests import EngineRequests, Scope
from exporter.probe.rounds import Rounds
from exporter.scenario.retention_prefix import prefix_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.clock import Clock
    from exporter.engine.client.engine_client import EngineClient
    from exporter.loops import LoopHeartbeat
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineInfo, EngineSnapshot
    from exporter.probe.admission import Admission, Charge
    from exporter.probe.replicas import Observe
    from exporter.probe.rounds import Schedule

log = structlog.get_logger(__name__)

_ANSWER_TOKENS = 1


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """The gaps, in seconds, and when to begin with them anew."""

    target: str
    gaps_seconds: Sequence[float]
    schedule: Schedule
    deadlines: Deadlines


@dataclass(frozen=True, slots=True)
class RetentionSinks:
    """Who is told: of each reading, and of the tokens of each request."""

    reading: Callable[[RetentionReading], None]
    consumed: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class _Written:
    """A prefix in the cache, last touched at `at`."""

    gap: float
    request: ChatRequest
    at: float
    chat: Chat


@dataclass(frozen=True, slots=True)
class _Engine:
    """The engine that a pass began with, and what asks it."""

    info: EngineInfo
    snapshot: EngineSnapshot | None
    match_unit: int
    chats: Scope

    def obstacle(self, written: _Written) -> RetentionUnknown | None:
        """Why a prefix that was written cannot be judged, by all that is known now."""
        if written.chat.failure is not None:
            return RetentionUnknown.FAILED
        usage = written.chat.usage
        known = None if usage is None else self.chats.settled(usage)
        return retention.write_obstacle(known, self.match_unit)

    def hopeless(self, written: _Written) -> bool:
        """Whether no later answer can tell either how much of it was cached at first."""
        usage = written.chat.usage
        if usage is None or self.obstacle(written) is not RetentionUnknown.UNREPORTED:
            return True
        return self.chats.lacks(usage)


class RetentionLoop:
    """Writes one prefix for each gap, reads each once after its gap, and begins again later.

    The writes wait at the gate like a session does, and the reads are paid for with them: a read
    that had to wait for the budget would come after another gap than its own. It only waits for its
    turn between two requests of a session.
    """

    def __init__(
        self,
        plan: RetentionPlan,
        client: EngineClient,
        admission: Admission,
        *,
        observe: Observe,
        clock: Clock,
        new_salt: Callable[[], str],
        sinks: RetentionSinks,
        heartbeat: LoopHeartbeat,
        requests: EngineRequests | None = None,
    ) -> None:
        """`requests` is what others ask the same engine through, too."""
        self._plan = plan
        self._requests = requests or EngineRequests(client, observe, clock)
        self._client = client
        self._admission = admission
        self._observe = observe
        self._clock = clock
        self._new_salt = new_salt
        self._sinks = sinks
        self._heartbeat = heartbeat
        self._log = log.bind(target=plan.target)
        self._unknown: dict[float, RetentionUnknown | None] = {}
        self._rounds = Rounds(
            "retention",
            plan.target,
            self._one_pass,
            schedule=plan.schedule,
            clock=clock,
            heartbeat=heartbeat,
        )

    async def run(self) -> None:
        """Loop until cancelled."""
        await self._rounds.run()

    async def _one_pass(self, _begun: Callable[[], None]) -> None:
        async with self._admission.admitted() as charge:
            engine = await self._look()
            if isinstance(engine, RetentionUnknown):
                for gap in self._plan.gaps_seconds:
                    self._tell(gap, None, engine)
                return
            written = await self._write_all(engine, charge)
        for prefix in written:
            await self._clock.sleep(max(0.0, prefix.at + prefix.gap - self._clock.monotonic()))
            async with self._admission.turn():
                await self._read(prefix, engine)
            self._heartbeat.ran()

    async def _write_all(self, engine: _Engine, charge: Charge) -> list[_Written]:
        """Write one prefix for each gap. Returns them in the order in which they are to be read."""
        written: list[_Written] = []
        # The longest gap first: the shortest must not pass while others are still written.
        for gap in sorted(self._plan.gaps_seconds, reverse=True):
            if written and written[-1].chat.failure is not None:
                # An engine that hangs must not hold the gate for a deadline more: a session
                # that fails says what is wrong.
                self._tell(gap, None, RetentionUnknown.FAILED)
            else:
                written.append(await self._write(gap, engine, charge))
        return sorted(written, key=lambda one: one.at + one.gap)

    async def _look(self) -> _Engine | RetentionUnknown:
        view = await self._observe()
        snapshot = view.snapshot if view else None
        found = retention.obstacle(snapshot)
        cache = snapshot.cache if snapshot else None
        if found is not None or cache is None or cache.match_unit_tokens is None:
            return found or RetentionUnknown.BLOCK_UNKNOWN
        try:
            info = await self._client.info()
        except EngineUnavailableError:
            return RetentionUnknown.FAILED
        chats = self._requests.scope(info, view)
        self._client.answered_by(self._requests.process)
        unit = self._requests.knowledge.likely_unit or cache.match_unit_tokens
        return _Engine(info, snapshot, unit, chats)

    async def _write(self, gap: float, engine: _Engine, charge: Charge) -> _Written:
        info = engine.info
        messages = prefix_messages(self._new_salt(), engine.match_unit, info.max_model_len)
        request = ChatRequest(info.model, messages, _ANSWER_TOKENS, self._new_salt())
        chat = await self._send(request, engine)
        charge.tokens += 2 * chat.tokens  # the read is paid now
        chat = replace(chat, usage=self._requests.knowledge.sent_new(chat.usage))
        return _Written(gap, request, self._clock.monotonic(), chat)

    async def _read(self, prefix: _Written, engine: _Engine) -> None:
        waited = self._clock.monotonic() - prefix.at
        obstacle = engine.obstacle(prefix)
        if obstacle is not None and engine.hopeless(prefix):
            self._tell(prefix.gap, None, obstacle)
            return
        if retention.late(prefix.gap, waited):
            self._tell(prefix.gap, None, RetentionUnknown.LATE)
            return
        chat = await self._send(prefix.request, engine)
        view = await self._observe()
        usage = None if chat.usage is None else engine.chats.settled(chat.usage)
        ratio, knowledge = retention.retained(usage, engine.match_unit), self._requests.knowledge
        unknown = None
        if chat.failure is not None:
            unknown = RetentionUnknown.FAILED
        elif retention.restarted(engine.snapshot, view.snapshot if view else None):
            unknown = RetentionUnknown.RESTARTED
        elif view is not None and view.mixed:
            unknown = RetentionUnknown.MIXED
        elif ratio is None or engine.obstacle(prefix) is not None:
            unknown = engine.obstacle(prefix) or RetentionUnknown.UNREPORTED
        elif not ratio and not knowledge.hit:
            unknown = RetentionUnknown.NEVER_HIT
        knowledge.hit = knowledge.hit or (unknown is None and bool(ratio))
        self._tell(prefix.gap, ratio, unknown)

    async def _send(self, request: ChatRequest, engine: _Engine) -> Chat:
        chat = (await engine.chats.chat(request, self._plan.deadlines)).once()
        self._sinks.consumed(chat.tokens)
        return chat

    def _tell(self, gap: float, ratio: float | None, unknown: RetentionUnknown | None) -> None:
        """Publish a reading; log why one is unknown, once as long as that stays the same."""
        if unknown is not None and self._unknown.get(gap) is not unknown:
            self._log.warning("retention.unknown", gap_seconds=gap, reason=unknown)
        self._unknown[gap] = unknown
        known = None if unknown is not None else ratio
        self._sinks.reading(RetentionReading(self._plan.target, gap, known, unknown))
