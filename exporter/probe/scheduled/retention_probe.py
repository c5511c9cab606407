"""Measures how long the cache keeps a prefix: writes one, and reads it after each idle gap."""

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
    from exporter.probe.context import ProbeContext

log = structlog.get_logger(__name__)

_ANSWER_TOKENS = 1


@dataclass(frozen=True, slots=True)
class _Engine:
    """One process of the engine, as of the reading `view`."""

    info: EngineInfo
    view: EngineView | None
    scope: RequestScope
    knowledge: EngineKnowledge

    @property
    def snapshot(self) -> EngineSnapshot | None:
        return self.view.snapshot if self.view else None

    def possible(self, usage: Usage | None) -> int | None:
        """The tokens that an identical prompt can hit; None where that is unknown."""
        return None if usage is None else self.knowledge.repeat_hit(usage.prompt_tokens)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A prefix that `written` put into the cache of `engine`, and that `last` used, until `at`."""

    engine: _Engine
    request: ChatRequest
    written: Chat
    last: Chat
    at: float

    def obstacle(self) -> RetentionUnknown | None:
        """Why the prefix cannot be judged, by all that is known now."""
        if self.written.failure is not None:
            return RetentionUnknown.FAILED
        usage = self.written.usage
        known = None if usage is None else self.engine.scope.settled(usage)
        return retention.write_obstacle(known, self.engine.possible(known))

    def hopeless(self) -> bool:
        """Whether its obstacle will stay, whatever the next answer shows."""
        usage = self.written.usage
        if usage is None or self.obstacle() is not RetentionUnknown.UNREPORTED:
            return True
        return self.engine.scope.lacks(usage)


class RetentionProbe:
    """Writes one prefix, and reads it after the shortest gap, then after the next, up to the last.

    Every read uses the prefix, so each gap counts from the read before it. A read that missed has
    written the prefix again. The write passes admission and is charged for the reads, too. A read
    that waited for the budget would come after the wrong gap, so it only waits for the request that
    is running.
    """

    def __init__(
        self, context: ProbeContext, gaps_seconds: Sequence[float], heartbeat: LoopHeartbeat
    ) -> None:
        """`heartbeat` reports every read, since a round lasts as long as all gaps together."""
        self._context = context
        self._requests = context.requests
        self._gaps = sorted(gaps_seconds)
        self._heartbeat = heartbeat
        self._log = log.bind(target=context.target)
        self._unknown: dict[float, RetentionUnknown | None] = {}

    async def round(self, _started: Callable[[], None]) -> None:
        """Wait for admission, write the prefix, then read it whenever a gap has passed."""
        admission, clock = self._context.admission, self._heartbeat.clock
        async with admission.admitted() as charge:
            prefix = await self._write()
            if isinstance(prefix, RetentionUnknown):
                for gap in self._gaps:
                    self._publish(gap, None, prefix)
                return
            charge.tokens = (1 + len(self._gaps)) * prefix.written.tokens
        for gap in self._gaps:
            await clock.sleep(max(0.0, prefix.at + gap - clock.monotonic()))
            async with admission.turn():
                prefix = await self._read(prefix, gap)
            self._heartbeat.ran()

    async def _write(self) -> _Prefix | RetentionUnknown:
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
        engine = self._engine(info, view)
        unit, new_salt = engine.knowledge.unit or cache.match_unit_tokens, self._context.new_salt
        messages = prefix_messages(new_salt(), unit, info.max_model_len)
        session = self._requests.new_session(view, info)
        request = ChatRequest(info.model, messages, _ANSWER_TOKENS, new_salt(), context=session)
        chat = await self._send(request, engine)
        return self._written(engine, request, chat, self._heartbeat.clock.monotonic())

    def _engine(self, info: EngineInfo, view: EngineView | None) -> _Engine:
        scope = RequestScope(self._requests, info, view)
        return _Engine(info, view, scope, self._requests.knowledge)

    def _written(self, engine: _Engine, request: ChatRequest, chat: Chat, at: float) -> _Prefix:
        chat = replace(chat, usage=engine.knowledge.usage_of_new_prompt(chat.usage))
        return _Prefix(engine, request, chat, chat, at)

    async def _read(self, prefix: _Prefix, gap: float) -> _Prefix:
        """Publish what is left after the gap. Returns the prefix as the read left it."""
        engine, waited = prefix.engine, self._heartbeat.clock.monotonic() - prefix.at
        obstacle = prefix.obstacle()
        if obstacle is not None and prefix.hopeless():
            self._publish(gap, None, obstacle)
            return prefix
        if retention.too_late(gap, waited):
            self._publish(gap, None, RetentionUnknown.LATE)
            return prefix
        chat = await self._send(prefix.request, engine)
        used = replace(prefix, last=chat, at=self._heartbeat.clock.monotonic())
        view = await self._requests.observe()
        restarted = retention.restarted(engine.snapshot, view.snapshot if view else None)
        if restarted and chat.failure is None:
            self._publish(gap, None, RetentionUnknown.RESTARTED)
            return self._written(self._engine(engine.info, view), prefix.request, chat, used.at)
        usage = None if chat.usage is None else engine.scope.settled(chat.usage)
        ratio = retention.retention_ratio(usage, engine.possible(usage))
        unknown = self._why_unknown(prefix, chat, view, ratio)
        knowledge = self._requests.knowledge
        knowledge.hit = knowledge.hit or (unknown is None and bool(ratio))
        self._publish(gap, ratio, unknown)
        return used

    def _why_unknown(
        self, prefix: _Prefix, read: Chat, view: EngineView | None, ratio: float | None
    ) -> RetentionUnknown | None:
        """Why a read does not show what was left since the last use; None if it does."""
        if read.failure is not None or prefix.last.failure is not None:
            return RetentionUnknown.FAILED  # a request that failed may have used the prefix or not
        if (view is not None and view.mixed) or self._moved(prefix.last, read):
            return RetentionUnknown.MIXED
        if retention.other_rank(ratio, self._ranks(prefix, view)):
            return RetentionUnknown.OTHER_RANK
        obstacle = prefix.obstacle()
        if ratio is None or obstacle is not None:
            return obstacle or RetentionUnknown.UNREPORTED
        return None if ratio or self._requests.knowledge.hit else RetentionUnknown.NEVER_HIT

    def _ranks(self, prefix: _Prefix, view: EngineView | None) -> int | None:
        context = prefix.request.context
        rank = context.rank if context else None
        return self._requests.ranks.answering(rank, view.snapshot if view else None)

    def _moved(self, last: Chat, read: Chat) -> bool:
        """Whether a prefix may have been read from another replica than it was used on last."""
        if not self._requests.placement.active:
            return False
        return read.replica is None or read.replica != last.replica

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
