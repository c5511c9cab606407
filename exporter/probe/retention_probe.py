"""Measures how long the cache keeps a prefix: writes some, and reads each after its idle gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from exporter.analysis import retention
from exporter.engine.wire.request import ChatRequest
from exporter.errors import EngineUnavailableError
from exporter.model.probe import RetentionReading, RetentionUnknown
from exporter.probe.request_scope import RequestScope
from exporter.scenario.retention_prefix import prefix_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
    from exporter.loops import LoopHeartbeat
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo, EngineSnapshot, EngineView
    from exporter.probe.admission import Charge
    from exporter.probe.context import ProbeContext

log = structlog.get_logger(__name__)

_ANSWER_TOKENS = 1


@dataclass(frozen=True, slots=True)
class _Written:
    """A prefix in the cache, last used at the monotonic time `at`."""

    gap: float
    request: ChatRequest
    at: float
    chat: Chat


@dataclass(frozen=True, slots=True)
class _Engine:
    """The engine as it was when a round started."""

    info: EngineInfo
    view: EngineView | None
    match_unit: int
    scope: RequestScope
    knowledge: EngineKnowledge

    @property
    def snapshot(self) -> EngineSnapshot | None:
        return self.view.snapshot if self.view else None

    def obstacle(self, written: _Written) -> RetentionUnknown | None:
        """Why a written prefix cannot be judged, by all that is known now."""
        if written.chat.failure is not None:
            return RetentionUnknown.FAILED
        usage = written.chat.usage
        known = None if usage is None else self.scope.settled(usage)
        return retention.write_obstacle(known, self.possible(known))

    def possible(self, usage: Usage | None) -> int | None:
        """The tokens that an identical prompt can hit; None where that is unknown."""
        return None if usage is None else self.knowledge.repeat_hit(usage.prompt_tokens)

    def hopeless(self, written: _Written) -> bool:
        """Whether its obstacle will stay, whatever a later answer shows."""
        usage = written.chat.usage
        if usage is None or self.obstacle(written) is not RetentionUnknown.UNREPORTED:
            return True
        return self.scope.lacks(usage)


class RetentionProbe:
    """Writes one prefix for each gap, and reads each once after its gap.

    The writes pass admission and are charged for the reads, too. A read that waited for the budget
    would come after the wrong gap, so it only waits for the request that is running.
    """

    def __init__(
        self, context: ProbeContext, gaps_seconds: Sequence[float], heartbeat: LoopHeartbeat
    ) -> None:
        """`heartbeat` reports every read, since a round lasts as long as its longest gap."""
        self._context = context
        self._requests = context.requests
        self._gaps = gaps_seconds
        self._heartbeat = heartbeat
        self._log = log.bind(target=context.target)
        self._unknown: dict[float, RetentionUnknown | None] = {}

    async def round(self, _started: Callable[[], None]) -> None:
        """Wait for admission, write all prefixes, then read each when it is due."""
        admission, clock = self._context.admission, self._heartbeat.clock
        async with admission.admitted() as charge:
            engine = await self._look()
            if isinstance(engine, RetentionUnknown):
                for gap in self._gaps:
                    self._publish(gap, None, engine)
                return
            written = await self._write_all(engine, charge)
        for prefix in written:
            await clock.sleep(max(0.0, prefix.at + prefix.gap - clock.monotonic()))
            async with admission.turn():
                await self._read(prefix, engine)
            self._heartbeat.ran()

    async def _write_all(self, engine: _Engine, charge: Charge) -> list[_Written]:
        """Write one prefix for each gap. Returns them in the order of their reads."""
        written: list[_Written] = []
        # The longest gap first, so the shortest does not pass during the other writes.
        for gap in sorted(self._gaps, reverse=True):
            if written and written[-1].chat.failure is not None:
                # A hung engine would hold up the sessions for one more deadline per gap.
                self._publish(gap, None, RetentionUnknown.FAILED)
            else:
                written.append(await self._write(gap, engine, charge))
        return sorted(written, key=lambda one: one.at + one.gap)

    async def _look(self) -> _Engine | RetentionUnknown:
        view, client = await self._requests.observe(), self._requests.client
        snapshot = view.snapshot if view else None
        found = retention.obstacle(snapshot)
        cache = snapshot.cache if snapshot else None
        if found is not None or cache is None or cache.match_unit_tokens is None:
            return found or RetentionUnknown.BLOCK_UNKNOWN
        try:
            info = await client.info()
        except EngineUnavailableError:
            return RetentionUnknown.FAILED
        scope = RequestScope(self._requests, info, view)
        knowledge = self._requests.knowledge
        return _Engine(info, view, knowledge.unit or cache.match_unit_tokens, scope, knowledge)

    async def _write(self, gap: float, engine: _Engine, charge: Charge) -> _Written:
        info, new_salt = engine.info, self._context.new_salt
        messages = prefix_messages(new_salt(), engine.match_unit, info.max_model_len)
        session = self._requests.new_session(engine.view, info)
        request = ChatRequest(info.model, messages, _ANSWER_TOKENS, new_salt(), context=session)
        chat = await self._send(request, engine)
        charge.tokens += 2 * chat.tokens  # the read is charged now
        chat = replace(chat, usage=self._requests.knowledge.usage_of_new_prompt(chat.usage))
        return _Written(gap, request, self._heartbeat.clock.monotonic(), chat)

    async def _read(self, prefix: _Written, engine: _Engine) -> None:
        waited = self._heartbeat.clock.monotonic() - prefix.at
        obstacle = engine.obstacle(prefix)
        if obstacle is not None and engine.hopeless(prefix):
            self._publish(prefix.gap, None, obstacle)
            return
        if retention.too_late(prefix.gap, waited):
            self._publish(prefix.gap, None, RetentionUnknown.LATE)
            return
        chat = await self._send(prefix.request, engine)
        view = await self._requests.observe()
        usage = None if chat.usage is None else engine.scope.settled(chat.usage)
        ratio, knowledge = (
            retention.retention_ratio(usage, engine.possible(usage)),
            self._requests.knowledge,
        )
        unknown = None
        if chat.failure is not None:
            unknown = RetentionUnknown.FAILED
        elif retention.restarted(engine.snapshot, view.snapshot if view else None):
            unknown = RetentionUnknown.RESTARTED
        elif (view is not None and view.mixed) or self._moved(prefix.chat, chat):
            unknown = RetentionUnknown.MIXED
        elif retention.other_rank(ratio, self._ranks(prefix, view)):
            unknown = RetentionUnknown.OTHER_RANK
        elif ratio is None or engine.obstacle(prefix) is not None:
            unknown = engine.obstacle(prefix) or RetentionUnknown.UNREPORTED
        elif not ratio and not knowledge.hit:
            unknown = RetentionUnknown.NEVER_HIT
        knowledge.hit = knowledge.hit or (unknown is None and bool(ratio))
        self._publish(prefix.gap, ratio, unknown)

    def _ranks(self, prefix: _Written, view: EngineView | None) -> int | None:
        context = prefix.request.context
        rank = context.rank if context else None
        return self._requests.ranks.answering(rank, view.snapshot if view else None)

    def _moved(self, written: Chat, read: Chat) -> bool:
        """Whether a prefix may have been read from another replica than it was written to."""
        if not self._requests.placement.active:
            return False
        return read.replica is None or read.replica != written.replica

    async def _send(self, request: ChatRequest, engine: _Engine) -> Chat:
        chat = (await engine.scope.chat(request, self._context.deadlines)).if_sent_once()
        self._context.sink.tokens_consumed(chat.tokens)
        return chat

    def _publish(self, gap: float, ratio: float | None, unknown: RetentionUnknown | None) -> None:
        """Publish a reading. Log why one is unknown once, while the reason stays the same."""
        if unknown is not None and self._unknown.get(gap) is not unknown:
            self._log.warning("retention.unknown", gap_seconds=gap, reason=unknown)
        self._unknown[gap] = unknown
        known = None if unknown is not None else ratio
        self._context.sink.retention_measured(
            RetentionReading(self._context.target, gap, known, unknown)
        )
