"""Runs sessions: plays a scenario against an engine, turn by turn, and judges each turn.

Whatever an engine does, `play` returns a result. A turn that fails ends the session with a
`Failure`; the turns before it are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.analysis.salt_trust import SaltTrust, process_of
from exporter.analysis.turn_notices import length_notices
from exporter.errors import EngineUnavailableError, ScenarioError
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import Notice
from exporter.probe.replicas import ReplicaDetector, own_info
from exporter.probe.request_scope import RequestScope
from exporter.probe.session.attempt import (
    Attempt,
    SessionContext,
    StartOverError,
    with_context,
)
from exporter.probe.session.plan import SessionHooks
from exporter.probe.session.record import SessionRecord
from exporter.probe.session.token_ids import TokenIds
from exporter.scenario.fitting import TokenCounter, fit
from exporter.scenario.model import NONCE_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.engine.wire.request import RequestContext
    from exporter.model.engine import EngineInfo, EngineView
    from exporter.model.session import SessionResult
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.session.cold_control import ColdControl
    from exporter.probe.session.plan import SessionPlan
    from exporter.scenario.model import Scenario, ScenarioKind


ASLEEP = (
    "the engine sleeps: vllm:engine_sleep_state says that it is not awake, and a request would wait"
)


class SessionRunner:
    """Plays sessions against one engine."""

    def __init__(
        self,
        plan: SessionPlan,
        requests: EngineRequests,
        new_salt: Callable[[], str],
        *,
        control: ColdControl | None = None,
    ) -> None:
        self._plan = plan
        self._requests = requests
        self._client = requests.client
        self._new_salt = new_salt
        self._control = control
        self._salts = SaltTrust()
        self._ids = TokenIds(requests.client)
        self._sessions = 0
        self._record: SessionRecord | None = None
        self._capacity_tokens: int | None = None  # of one rank, by the latest reading that had it
        # By kind and model.
        self._fitted: dict[tuple[str, str], tuple[tuple[Any, ...], Scenario, bool]] = {}

    async def play(self, hooks: SessionHooks | None = None) -> SessionResult:
        """Play one session under a salt never used before."""
        number, clock = self._sessions, self._requests.clock
        self._sessions += 1
        kind = self._plan.kind_of(number)
        record = self._record = SessionRecord(
            kind.name, clock.time(), clock.monotonic(), api=self._client.surface.name
        )
        try:
            await self._play(kind, self._plan.round_of(number), record, hooks or SessionHooks())
        except EngineUnavailableError as error:
            record.failure = Failure(FailureReason(error.reason), error.detail)
        except ScenarioError as error:
            record.failure = Failure(FailureReason.PROMPT_TOO_LONG, str(error))
        record.turns.clear()  # their token ids take 0.8 MB, and nothing reads them any more
        return self._result(record)

    def so_far(self) -> SessionResult | None:
        """The running session with the turns that have finished; None before the first session.

        A caller that cancels `play` gets these turns here.
        """
        return None if self._record is None else self._result(self._record)

    def _result(self, record: SessionRecord) -> SessionResult:
        rank = record.rank if self._requests.ranks.obeyed else None
        return record.result(self._plan.target, self._requests.clock.monotonic(), rank)

    async def _play(
        self, kind: ScenarioKind, turn: int, record: SessionRecord, hooks: SessionHooks
    ) -> None:
        """`turn` chooses the model or adapter; see `EngineClient.info`."""
        requests = self._requests
        info = record.info = await self._client.info(self._plan.adapters, turn)
        self._ids.begin(info.version)
        replicas = ReplicaDetector(requests.observe)
        before = await replicas.first()
        info = record.info = own_info(info, before)
        if before and before.snapshot and before.snapshot.asleep:
            raise EngineUnavailableError(FailureReason.ASLEEP, ASLEEP)
        self._note_capacity(before)
        scope = record.scope = RequestScope(requests, info, before)
        process = process_of(info, before)
        distrusted = self._salts.ignored(process)
        record.nonce = distrusted or self._client.capabilities.refuses_salts
        context = SessionContext(
            plan=self._plan,
            requests=requests,
            scope=scope,
            ids=self._ids,
            control=self._control,
            new_salt=self._new_salt,
            replicas=replicas,
            record=record,
            hooks=hooks,
        )
        while True:
            session = self._session_context(record, before, info)
            scenario = await self._fit(kind, info, record)
            try:
                await Attempt(context, scenario, info, before, session).play()
                if self._control is not None:
                    self._control.session_ended(len(scenario.steps))
                break
            except StartOverError:
                record.start_over()
                before = await replicas.next() or before
                self._note_capacity(before)
                info = with_context(info, self._client.capabilities)
        self._add_notices(record, padded=kind.padded)
        if Notice.SALT_IGNORED in record.notices and not distrusted:
            self._salts.distrust(process)

    def _note_capacity(self, view: EngineView | None) -> None:
        """One failed reading must not make the next session a longer one."""
        cache = view.snapshot.cache if view and view.snapshot else None
        if cache is not None and cache.capacity_tokens is not None:
            self._capacity_tokens = cache.capacity_tokens

    def _session_context(
        self, record: SessionRecord, view: EngineView | None, info: EngineInfo
    ) -> RequestContext:
        """That of the session so far, or a new one if it has none or its rank is gone."""
        ranks, rank = self._requests.ranks, record.rank
        if record.context is None or (rank is not None and rank.label in ranks.gone):
            record.context = self._requests.new_session(view, info)
        return record.context

    def _add_notices(self, record: SessionRecord, *, padded: bool) -> None:
        """Add the notices that depend on the whole session."""
        knowledge = self._requests.knowledge
        if self._client.capabilities.refuses_salts:
            record.notices.add(Notice.SALT_REFUSED)
        elif record.nonce and not knowledge.transfers:
            record.notices.add(Notice.SALT_IGNORED)
        if self._requests.ranks.gone:
            record.notices.add(Notice.RANK_GONE)
        unit = knowledge.unit
        record.notices |= length_notices(record.facts, unit, padded=padded)

    async def _fit(self, kind: ScenarioKind, info: EngineInfo, record: SessionRecord) -> Scenario:
        """The scenario made to fit this engine. The result is kept while the engine is the same.

        A fit with guessed token counts is not kept: /tokenize may answer at the next session.
        """
        knowledge = self._requests.knowledge
        if knowledge.no_system and kind.build(0).has_system:
            record.notices.add(Notice.SYSTEM_ROLE_REFUSED)
            kind = kind.without_system()
        plan, reserved = self._plan, NONCE_TOKENS if record.nonce else 0
        wanted = plan.opening(knowledge.unit_to_span, self._capacity_tokens)
        capabilities = (self._client.capabilities.counts_tools, knowledge.no_system)
        key = (info.version, info.max_model_len, wanted, reserved, *capabilities)
        fitted = self._fitted.get((kind.name, info.model))
        if fitted is None or fitted[0] != key:
            counter = TokenCounter(self._client, record.context)
            found = await fit(kind, counter, info, wanted, plan.max_tokens, reserved=reserved)
            fitted = (key, *found)
            if counter.whole:
                self._fitted[kind.name, info.model] = fitted
        _, scenario, shortened = fitted
        if shortened:
            record.notices.add(Notice.SCENARIO_SHORTENED)
        return scenario
