"""One session: a scenario played against an engine, turn by turn, and judged.

Nothing that an engine does ends in an exception here: a turn that fails ends the session with a
`Failure`, and the turns before it are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from exporter.analysis.salting import SaltTrust, process_of
from exporter.analysis.turn_notices import length_notices
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.errors import EngineUnavailableError, ScenarioError
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import Control, Notice, SessionResult, TurnFacts
from exporter.probe.engine_requests import EngineRequests, Scope
from exporter.probe.overlapping import overlapping
from exporter.probe.replicas import ReplicaDetector, own_info
from exporter.probe.session.cold_control import ColdControl, Place
from exporter.probe.session.prefix_comparison import Detokenize, PrefixComparison
from exporter.probe.session.record import Played
from exporter.probe.session.token_ids import TokenIds
from exporter.probe.session.turn_judge import TurnJudge
from exporter.scenario.fitting import TokenCounter, fit
from exporter.scenario.model import NONCE_TOKENS, headed, refuses_system

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.clock import Clock
    from exporter.engine.client.engine_client import EngineClient
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineInfo, EngineView
    from exporter.probe.replicas import Observe
    from exporter.scenario.model import Scenario, ScenarioKind


ASLEEP = (
    "the engine sleeps: vllm:engine_sleep_state says that it is not awake, and a request would wait"
)


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
    cached_tokens_from_counters: bool = False

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


@dataclass(frozen=True, slots=True)
class _Scene:
    """What stays the same while one session is played."""

    kind: ScenarioKind
    info: EngineInfo
    before: EngineView | None
    replicas: ReplicaDetector
    chats: Scope
    hooks: SessionHooks


class _End(Enum):
    """Whether a session ends with a turn, and how."""

    NOT_YET = auto()
    OVER = auto()
    ANEW = auto()  # nothing of it is kept


@dataclass(frozen=True, slots=True)
class _Cold:
    """The cold control of one turn, where that has a `place` for it."""

    turn: int
    request: ChatRequest
    place: Place | None


@dataclass(slots=True)
class _Course:
    """One way through the scenario, from its first turn on."""

    scenario: Scenario
    salt: str
    judge: TurnJudge
    watch: PrefixComparison
    messages: list[dict[str, Any]] = field(default_factory=list)


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
        requests: EngineRequests | None = None,
    ) -> None:
        """`requests` is what others ask the same engine through, too."""
        self._plan = plan
        self._client = client
        self._observe = observe
        self._clock = clock
        self._new_salt = new_salt
        self._control = control
        self._requests = requests or EngineRequests(
            client, observe, clock, from_counters=plan.cached_tokens_from_counters
        )
        self._salts = SaltTrust()
        self._ids = TokenIds(client)
        self._sessions = 0
        self._played: Played | None = None
        self._fitted: dict[str, tuple[tuple[Any, ...], Scenario, bool]] = {}

    async def play(self, hooks: SessionHooks | None = None) -> SessionResult:
        """Play one session under a salt never used before."""
        hooks = hooks or SessionHooks()
        kind = self._plan.kind_of(self._sessions)
        self._sessions += 1
        played = Played(kind.name, self._clock.time(), self._clock.monotonic())
        self._played = played
        try:
            played.info = await self._client.info()
            self._ids.begin(played.info.version)
            await self._play_turns(kind, played.info, played, hooks)
        except EngineUnavailableError as error:
            played.failure = Failure(FailureReason(error.reason), error.detail)
        except ScenarioError as error:
            played.failure = Failure(FailureReason.PROMPT_TOO_LONG, str(error))
        played.turns.clear()  # their token ids take 0.8 MB, until the next session and for nothing
        return self._result(played)

    def so_far(self) -> SessionResult | None:
        """The session that is being played, as far as it has come; None before the first one.

        For whoever cancels `play` and still wants the turns that did finish.
        """
        return None if self._played is None else self._result(self._played)

    def _result(self, played: Played) -> SessionResult:
        return played.result(self._plan.target, self._clock.monotonic())

    async def _play_turns(
        self, kind: ScenarioKind, info: EngineInfo, played: Played, hooks: SessionHooks
    ) -> None:
        replicas = ReplicaDetector(self._observe)
        before = await replicas.first()
        info = played.info = own_info(info, before)
        if before and before.snapshot and before.snapshot.asleep:
            raise EngineUnavailableError(FailureReason.ASLEEP, ASLEEP)
        chats = played.chats = self._requests.scope(info, before)
        self._client.answered_by(self._requests.process)
        scene = _Scene(kind, info, before, replicas, chats, hooks)
        process = process_of(info, scene.before)
        distrusted = self._salts.ignored(process)
        played.nonce = distrusted or self._client.learned.refuses_salts
        while await self._play_through(scene, played):
            played.begin_anew()
            before = await replicas.next() or scene.before
            scene = replace(scene, info=self._with_context(scene.info), before=before)
        memory = self._requests.memory
        if self._client.learned.refuses_salts:
            played.notices.add(Notice.SALT_REFUSED)
        elif played.nonce and not memory.transfers:
            played.notices.add(Notice.SALT_IGNORED)
            if not distrusted:
                self._salts.distrust(process)
        played.notices |= length_notices(played.facts, memory.likely_unit, padded=kind.padded)

    async def _play_through(self, scene: _Scene, played: Played) -> bool:
        """Play all turns. Returns whether the session must begin anew: nothing is kept then."""
        scenario, shortened = await self._fit(scene, played)
        if shortened:
            played.notices.add(Notice.SCENARIO_SHORTENED)
        kept = not scenario.recorded
        watch = PrefixComparison(self._text_of(scene), scenario.tools, answers_kept=kept)
        judge = TurnJudge(self._requests, scene.replicas, scene.before)
        course = _Course(scenario, self._new_salt(), judge, watch)
        for index, step in enumerate(scenario.steps, start=1):
            course.messages += step
            if index == 1 and played.nonce:
                course.messages[0] = headed(course.messages[0], self._new_salt())
            scene.hooks.on_turn_start(index, len(scenario.steps))
            await self._requests.step_aside()
            end = await self._play_turn(index, scene, course, played)
            if end is not _End.NOT_YET:
                return end is _End.ANEW
        return False

    async def _play_turn(self, index: int, scene: _Scene, course: _Course, played: Played) -> _End:
        """Play one turn and judge it."""
        hooks, scenario = scene.hooks, course.scenario
        request = ChatRequest(
            scene.info.model, course.messages, self._plan.max_tokens, course.salt, scenario.tools
        )
        place = self._control.place(index) if self._control else None
        cold = _Cold(index, self._cold_request(request, scenario, played), place)
        control = await self._send_control(cold, Place.BEFORE, scene, played)
        hooks.on_request(False)
        chat = await self._send(request, scene, hooks.on_token)
        if chat.once().failure is not None:
            return self._failed(chat, index, scene, scenario, played)
        if index == 1 and played.nonce:
            chat = replace(chat, usage=self._requests.memory.sent_new(chat.usage))
        turn = replace(chat, index=index)
        if index == 1 and not played.nonce:
            played.nonce = bool(turn.cached_tokens) or self._client.learned.refuses_salts
            if played.nonce:
                return _End.ANEW
        facts = await course.judge.judge(turn, played, partial(self._again, request, scene))
        control = control or await self._send_control(cold, Place.AFTER, scene, played)
        played.facts[-1] = replace(facts, control=control)
        played.settle()
        await course.watch.turn(turn, course.messages)
        played.prefix = course.watch.verdict()
        if played.prefix is not None and not played.prefix.stable:
            played.notices.add(Notice.PREFIX_UNSTABLE)
        hooks.on_turn(played.facts[-1])
        if not scenario.recorded:
            course.messages.append(chat.message)
        return _End.NOT_YET

    def _failed(
        self, chat: Chat, turn: int, scene: _Scene, scenario: Scenario, played: Played
    ) -> _End:
        """What becomes of a session whose request failed, or may have been computed twice."""
        failure = chat.failure
        if failure is None and not played.sent_twice:
            played.sent_twice = True
            return _End.ANEW
        if failure is not None and turn == 1 and scenario.has_system and refuses_system(failure):
            self._requests.memory.no_system = True
            return _End.ANEW
        too_long = failure is not None and failure.reason is FailureReason.PROMPT_TOO_LONG
        if too_long and self._with_context(scene.info) != scene.info:
            return _End.ANEW
        played.failure, played.failed_turn = chat.once().failure, turn
        return _End.OVER

    def _with_context(self, info: EngineInfo) -> EngineInfo:
        """With the length that a refusal named, where no model card says one."""
        length = info.max_model_len or self._client.learned.contexts.get(info.model)
        return replace(info, max_model_len=length)

    async def _again(
        self, request: ChatRequest, scene: _Scene, beside: bool
    ) -> Sequence[Chat] | None:
        """A turn's prompt once more, for one token; `beside` another time that it is answered."""
        once = replace(request, max_tokens=1)

        async def sent() -> Chat:
            return await self._send(once, scene, lambda _chunks: None)

        answers: Sequence[Chat]
        if beside:
            answers = await overlapping(lambda begun: self._send(request, scene, begun), sent)
        else:
            answers = [await sent()]
        return answers if all(map(_is_evidence, answers)) else None

    def _text_of(self, scene: _Scene) -> Detokenize:
        async def detokenize(ids: Sequence[int]) -> str | None:
            return await self._client.detokenize(scene.info.model, ids)

        return detokenize

    async def _send(
        self, request: ChatRequest, scene: _Scene, on_token: Callable[[int], None]
    ) -> Chat:
        """The answer, with its token ids where they can be known."""
        deadlines = self._plan.deadlines
        asked = self._ids.asked_for(request)
        chat = await scene.chats.chat(asked, deadlines, on_token)
        if self._ids.refused(asked, chat):
            chat = await scene.chats.chat(request, deadlines, on_token)
        return await self._ids.complete(request, chat)

    def _cold_request(
        self, request: ChatRequest, scenario: Scenario, played: Played
    ) -> ChatRequest:
        """The request as its control sends it: what keeps the session apart is another one."""
        if not played.nonce:
            return request
        opening = headed(scenario.steps[0][0], self._new_salt())
        return replace(request, messages=[opening, *request.messages[1:]])

    async def _send_control(
        self, cold: _Cold, now: Place, scene: _Scene, played: Played
    ) -> Control | None:
        """The turn's cold control, if it has one that stands here."""
        if self._control is None or cold.place is not now:
            return None
        scene.hooks.on_request(True)
        control, usage = await self._control.send(
            scene.chats, cold.request, self._plan.deadlines, now
        )
        played.control_usage[cold.turn] = usage
        return control

    async def _fit(self, scene: _Scene, played: Played) -> tuple[Scenario, bool]:
        """The scenario made to fit this engine; counted once, as long as the engine is the same.

        One that had to be guessed is guessed again for each session: /tokenize may answer then.
        """
        memory, info, kind = self._requests.memory, scene.info, scene.kind
        if memory.no_system and kind.build(0).has_system:
            played.notices.add(Notice.SYSTEM_ROLE_REFUSED)
            kind = kind.without_system()
        unit, reserved = memory.likely_unit, NONCE_TOKENS if played.nonce else 0
        asked = (self._client.learned.counts_tools, memory.no_system)
        key = (info.model, info.version, info.max_model_len, unit, reserved, *asked)
        fitted = self._fitted.get(kind.name)
        if fitted is None or fitted[0] != key:
            plan, counter = self._plan, TokenCounter(self._client)
            wanted = None if unit is None else plan.match_units * unit
            scenario, shortened = await fit(
                kind, counter, info, wanted, plan.max_tokens, reserved=reserved
            )
            fitted = (key, scenario, shortened)
            if counter.whole:
                self._fitted[kind.name] = fitted
        return fitted[1], fitted[2]


def _is_evidence(chat: Chat) -> bool:
    return chat.once().failure is None and chat.usage is not None
