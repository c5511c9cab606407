"""One session: a scenario played against an engine, turn by turn, and judged.

Nothing that an engine does ends in an exception here: a turn that fails ends the session with a
`Failure`, and the turns before it are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from exporter.engine.client import Chat, ChatRequest, Deadlines, EngineClient
from exporter.errors import EngineUnavailableError, ScenarioError
from exporter.model import (
    Control,
    EngineInfo,
    EngineView,
    Failure,
    FailureReason,
    LossCause,
    Notice,
    PrefixStability,
    SessionResult,
    Turn,
    TurnFacts,
    Usage,
)
from exporter.probe.cache_math import (
    EngineCircumstances,
    beyond_ideal,
    turn_facts,
    turn_ideal,
)
from exporter.probe.control import ColdControl, Place
from exporter.probe.fitting import fit
from exporter.probe.inquiry import LossInquiry, Observe
from exporter.probe.loss import loss
from exporter.probe.prefix_watch import PrefixWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.clock import Clock
    from exporter.probe.scenario import Scenario, ScenarioKind


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What is the same for all sessions of one target. `max_tokens` is per turn.

    `others` are played in rotation with `kind`, one a session.
    """

    target: str
    kind: ScenarioKind
    max_tokens: int
    deadlines: Deadlines
    match_units: int = 8
    others: tuple[ScenarioKind, ...] = ()

    def kind_of(self, session: int) -> ScenarioKind:
        """The scenario of session number `session` (0…)."""
        kinds = (self.kind, *self.others)
        return kinds[session % len(kinds)]


@dataclass(slots=True)
class SessionHooks:
    """Called as the session goes, to show progress; what they do must be quick.

    `on_request` is called as a request is about to leave: a turn's own, or (True) its cold control.
    """

    on_turn_start: Callable[[int, int], None] = lambda _turn, _turns: None
    on_request: Callable[[bool], None] = lambda _control: None
    on_token: Callable[[int], None] = lambda _chunks: None
    on_turn: Callable[[TurnFacts], None] = lambda _facts: None


@dataclass(slots=True)
class _Played:
    """The session so far."""

    scenario: str
    started_time: float
    started_at: float
    info: EngineInfo | None = None
    turns: list[Turn] = field(default_factory=list)
    facts: list[TurnFacts] = field(default_factory=list)
    notices: set[Notice] = field(default_factory=set)
    failure: Failure | None = None
    failed_turn: int | None = None
    prefix: PrefixStability | None = None
    extra_tokens: int = 0


class SessionRunner:
    """Plays sessions against one engine."""

    def __init__(
        self,
        plan: SessionPlan,
        client: EngineClient,
        observe: Observe,
        clock: Clock,
        new_salt: Callable[[], str],
        *,
        control: ColdControl | None = None,
    ) -> None:
        self._plan = plan
        self._client = client
        self._observe = observe
        self._clock = clock
        self._new_salt = new_salt
        self._control = control
        self._sessions = 0
        self._played: _Played | None = None
        self._fitted: dict[str, tuple[tuple[Any, ...], Scenario, bool]] = {}

    async def play(self, hooks: SessionHooks | None = None) -> SessionResult:
        """Play one session under a salt never used before."""
        hooks = hooks or SessionHooks()
        kind = self._plan.kind_of(self._sessions)
        self._sessions += 1
        played = _Played(kind.name, self._clock.time(), self._clock.monotonic())
        self._played = played
        try:
            played.info = await self._client.info()
            await self._play_turns(kind, played.info, played, hooks)
        except EngineUnavailableError as error:
            played.failure = Failure(FailureReason(error.reason), error.detail)
        except ScenarioError as error:
            played.failure = Failure(FailureReason.PROMPT_TOO_LONG, str(error))
        return self._result(played)

    def so_far(self) -> SessionResult | None:
        """The session that is being played, as far as it has come; None before the first one.

        For whoever cancels `play` and still wants the turns that did finish.
        """
        return None if self._played is None else self._result(self._played)

    def _result(self, played: _Played) -> SessionResult:
        info = played.info
        simulated = info is not None and info.simulated
        return SessionResult(
            target=self._plan.target,
            scenario=played.scenario,
            simulated=simulated,
            model=info.model if info else None,
            engine_version=info.version if info else None,
            started_time=played.started_time,
            duration_seconds=self._clock.monotonic() - played.started_at,
            turns=tuple(played.facts),
            failure=played.failure,
            failed_turn=played.failed_turn,
            notices=frozenset(played.notices | ({Notice.SIMULATED} if simulated else set())),
            prefix=played.prefix,
            extra_tokens=played.extra_tokens,
        )

    async def _play_turns(
        self, kind: ScenarioKind, info: EngineInfo, played: _Played, hooks: SessionHooks
    ) -> None:
        before = await self._observe()
        scenario, shortened = await self._fit(kind, info, _match_unit(before))
        if shortened:
            played.notices.add(Notice.SCENARIO_SHORTENED)
        salt = self._new_salt()
        inquiry = LossInquiry(self._observe, before)

        async def detokenize(ids: Sequence[int]) -> str | None:
            return await self._client.detokenize(info.model, ids)

        watch = PrefixWatch(detokenize, scenario.tools, answers_kept=not scenario.recorded)
        messages: list[dict[str, Any]] = []
        for index, step in enumerate(scenario.steps, start=1):
            messages += step
            hooks.on_turn_start(index, len(scenario.steps))
            request = ChatRequest(info.model, messages, self._plan.max_tokens, salt, scenario.tools)
            place = self._control.place(index) if self._control else None
            control = await self._send_control(request, place, Place.BEFORE, hooks)
            hooks.on_request(False)
            chat = await self._client.chat(request, self._plan.deadlines, hooks.on_token)
            if chat.failure is not None:
                played.failure, played.failed_turn = chat.failure, index
                return
            turn = _turn(index, chat)
            facts = await self._judge(turn, before, played, inquiry, request)
            control = control or await self._send_control(request, place, Place.AFTER, hooks)
            facts = played.facts[-1] = replace(facts, control=control)
            await watch.turn(turn, messages)
            played.prefix = watch.verdict()
            if played.prefix is not None and not played.prefix.stable:
                played.notices.add(Notice.PREFIX_UNSTABLE)
            hooks.on_turn(facts)
            if not scenario.recorded:
                messages.append(chat.message)
        if not kind.padded and opens_short(played.facts[0], _match_unit(before)):
            played.notices.add(Notice.OPENING_SHORT)

    async def _send_control(
        self, request: ChatRequest, place: Place | None, now: Place, hooks: SessionHooks
    ) -> Control | None:
        """The turn's cold control, if it has one that stands here."""
        if self._control is None or place is not now:
            return None
        hooks.on_request(True)
        return await self._control.send(self._client, request, self._plan.deadlines, now)

    async def _judge(
        self,
        turn: Turn,
        before: EngineView | None,
        played: _Played,
        inquiry: LossInquiry,
        request: ChatRequest,
    ) -> TurnFacts:
        circumstances = EngineCircumstances(_match_unit(before), _prefix_caching(before))
        ideal = turn_ideal(turn, played.turns, circumstances.match_unit_tokens)
        inquiry.used(turn)

        async def again() -> Usage | None:
            chat = await self._client.chat(replace(request, max_tokens=1), self._plan.deadlines)
            return None if chat.failure is not None else chat.usage

        evidence = None
        if ideal and circumstances.match_unit_tokens:
            unit = circumstances.match_unit_tokens
            evidence = await inquiry.evidence(turn, ideal, unit, played.turns, again)
        played.extra_tokens = inquiry.extra_tokens
        facts = turn_facts(turn, ideal, None if evidence is None else loss(evidence))
        played.turns.append(turn)
        played.facts.append(facts)
        played.notices |= turn_notices(turn, ideal, circumstances)
        if facts.loss is not None and facts.loss.cause is LossCause.WEDGED:
            played.notices.add(Notice.CACHE_WEDGED)
        return facts

    async def _fit(
        self, kind: ScenarioKind, info: EngineInfo, match_unit: int | None
    ) -> tuple[Scenario, bool]:
        """The scenario made to fit this engine; counted once, as long as the engine is the same."""
        key = (info.model, info.version, info.max_model_len, match_unit)
        fitted = self._fitted.get(kind.name)
        if fitted is None or fitted[0] != key:
            plan = self._plan
            wanted = None if match_unit is None else plan.match_units * match_unit
            scenario, shortened = await fit(kind, self._client, info, wanted, plan.max_tokens)
            fitted = self._fitted[kind.name] = (key, scenario, shortened)
        return fitted[1], fitted[2]


def _turn(index: int, chat: Chat) -> Turn:
    """The record of a request that went well."""
    first = chat.token_times[0] if chat.token_times else None
    sent = chat.sent_at if chat.sent_at is not None else chat.finished_at
    return Turn(
        index=index,
        sent_at=sent,
        first_token_at=first,
        finished_at=chat.finished_at,
        usage=chat.usage,
        finish_reason=chat.finish_reason,
        inter_token=tuple(later - earlier for earlier, later in pairwise(chat.token_times)),
        prompt_token_ids=chat.prompt_token_ids,
        completion_token_ids=chat.completion_token_ids,
    )


def turn_notices(turn: Turn, ideal: int | None, circumstances: EngineCircumstances) -> set[Notice]:
    """What a reader of this turn's numbers must know."""
    cached = turn.usage.cached_tokens if turn.usage else None
    notices = {
        Notice.USAGE_MISSING: turn.usage is None,
        Notice.USAGE_DETAILS_MISSING: turn.usage is not None and cached is None,
        Notice.PREFIX_CACHING_DISABLED: circumstances.prefix_caching is False,
        Notice.TOKEN_IDS_MISSING: (
            turn.prompt_token_ids is None or turn.completion_token_ids is None
        ),
        Notice.MATCH_UNIT_UNKNOWN: circumstances.match_unit_tokens is None,
        Notice.FIRST_TURN_NOT_COLD: turn.index == 1 and bool(cached),
        Notice.HIT_BEYOND_IDEAL: turn.index > 1 and beyond_ideal(cached, ideal),
    }
    return {notice for notice, applies in notices.items() if applies}


def opens_short(first: TurnFacts, match_unit: int | None) -> bool:
    """Whether a session's first prompt is known to span fewer than two match units."""
    tokens = first.prompt_tokens
    return match_unit is not None and tokens is not None and tokens < 2 * match_unit


def _match_unit(view: EngineView | None) -> int | None:
    cache = view.snapshot.cache if view and view.snapshot else None
    return cache.match_unit_tokens if cache else None


def _prefix_caching(view: EngineView | None) -> bool | None:
    cache = view.snapshot.cache if view and view.snapshot else None
    return cache.prefix_caching if cache else None
