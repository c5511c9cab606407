"""One attempt at a session: plays a scenario turn by turn, and judges each turn.

A session starts over, as a new attempt, where the turns so far prove nothing: the engine ignores
salts, refuses system messages, named a shorter context, may have computed a prompt twice, or no
longer has the rank that the session is pinned to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from exporter.analysis.hits.counted_hits import has_store
from exporter.analysis.salt_trust import knows_salts
from exporter.engine.wire.refusal import says_rank_is_gone
from exporter.engine.wire.request import ChatRequest
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import Notice
from exporter.probe.overlapping import overlapping
from exporter.probe.session.cold_control import Place
from exporter.probe.session.prefix_comparison import PrefixComparison
from exporter.probe.session.turn_judge import TurnJudge
from exporter.scenario.model import refuses_system, with_text_before
from exporter.scenario.opening import room_is_scarce

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.engine.wire.capabilities import Capabilities
    from exporter.engine.wire.request import RequestContext
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineInfo, EngineView
    from exporter.model.session import Control
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.replicas import ReplicaDetector
    from exporter.probe.request_scope import RequestScope
    from exporter.probe.session.cold_control import ColdControl
    from exporter.probe.session.plan import SessionHooks, SessionPlan
    from exporter.probe.session.record import SessionRecord
    from exporter.probe.session.token_ids import TokenIds
    from exporter.scenario.model import Scenario


_LIKE_A_REST = frozenset(
    {
        *(FailureReason.FIRST_TOKEN_TIMEOUT, FailureReason.STALLED, FailureReason.TURN_TIMEOUT),
        *(FailureReason.ABORTED, FailureReason.STREAM_ERROR),
    }
)
"""How a turn fails that the engine does not compute, or drops, because it rests."""


class StartOverError(Exception):
    """The turns so far prove nothing: the session starts over."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What all attempts at one session share."""

    plan: SessionPlan
    requests: EngineRequests
    scope: RequestScope
    ids: TokenIds
    control: ColdControl | None
    new_salt: Callable[[], str]
    replicas: ReplicaDetector
    record: SessionRecord
    hooks: SessionHooks


class Attempt:
    """Plays one scenario under one salt, from its first turn on."""

    def __init__(
        self,
        context: SessionContext,
        scenario: Scenario,
        info: EngineInfo,
        before: EngineView | None,
        session: RequestContext,
    ) -> None:
        """`before` is the reading before the first turn."""
        self._session = session
        self._context = context
        self._scenario = scenario
        self._info = info
        self._record = context.record
        cache = before.snapshot.cache if before and before.snapshot else None
        self._scarce = room_is_scarce(cache.capacity_tokens if cache else None)
        self._salt = context.new_salt() if knows_salts(info.version) else None
        self._messages: list[dict[str, Any]] = []
        events = context.requests.kv_events
        self._blocks = events.follow(self._salt) if events and self._salt else None
        self._judge = TurnJudge(
            *(context.record, context.requests, context.replicas, before, self._blocks),
            learns=context.plan.learns,
        )
        self._comparison = PrefixComparison(
            partial(context.requests.client.detokenize, info.model),
            scenario.tools,
            answers_kept=not scenario.recorded,
        )

    async def play(self) -> None:
        """Play turns into the record, up to one that fails. Raises `StartOverError`."""
        steps = self._scenario.steps
        for index, step in enumerate(steps, start=1):
            self._messages += step
            if index == 1 and self._record.nonce:
                self._messages[0] = with_text_before(self._messages[0], self._context.new_salt())
            self._context.hooks.on_turn_start(index, len(steps))
            await self._context.requests.yield_turn()
            await self._play_turn(index)
            if self._record.failure is not None:
                return

    async def _play_turn(self, index: int) -> None:
        context, record = self._context, self._record
        model, tools = self._info.model, self._scenario.tools
        request = ChatRequest(
            *(model, self._messages, context.plan.max_tokens, self._salt, tools),
            context=replace(self._session, turn=index),
        )
        turns = len(self._scenario.steps)
        place = (
            context.control.place(index, turns, scarce=self._scarce) if context.control else None
        )
        control = await self._send_control(index, request, place, Place.BEFORE)
        context.hooks.on_request(False)
        if self._blocks is not None:
            self._blocks.begin_turn()
        turn = replace(await self._send(request, context.hooks.on_token), index=index)
        if turn.if_sent_once().failure is not None:
            await self._fail(turn)
            return
        if index == 1:
            turn = self._first(turn)
        facts = await self._judge.judge(turn, partial(self._resend, request))
        if self._blocks is not None:
            self._blocks.end_turn()
        control = control or await self._send_control(index, request, place, Place.AFTER)
        record.facts[-1] = replace(facts, control=control)
        record.settle()
        record.prefix = await self._comparison.turn(turn, self._messages)
        if record.prefix is not None and not record.prefix.stable:
            record.notices.add(Notice.PREFIX_UNSTABLE)
        context.hooks.on_turn(record.facts[-1])
        if not self._scenario.recorded:
            self._messages.append(turn.message)

    def _first(self, turn: Chat) -> Chat:
        """The first turn, whose prompt is new to the engine. Starts over if salts do nothing."""
        requests, record = self._context.requests, self._record
        if record.nonce:
            return replace(turn, usage=requests.knowledge.usage_of_new_prompt(turn.usage))
        record.nonce = bool(turn.cached_tokens) or requests.client.capabilities.refuses_salts
        if record.nonce:
            raise StartOverError
        return turn

    async def _fail(self, turn: Chat) -> None:
        """End the session with the turn's failure, or start over where that helps."""
        record, requests, failure = self._record, self._context.requests, turn.failure
        if failure is None and not record.sent_twice:
            record.sent_twice = True
            raise StartOverError
        refused = failure is not None and turn.index == 1 and refuses_system(failure)
        if refused and self._scenario.has_system:
            requests.knowledge.no_system = True
            raise StartOverError
        if failure is not None and self._session.rank and says_rank_is_gone(failure):
            raise StartOverError
        too_long = failure is not None and failure.reason is FailureReason.PROMPT_TOO_LONG
        if too_long and with_context(self._info, requests.client.capabilities) != self._info:
            raise StartOverError
        record.failure = await self._told_apart(turn.if_sent_once().failure)
        record.failed_turn, record.failed_request_id = turn.index, turn.request_id
        record.failed_sent_at = turn.sent_at

    async def _told_apart(self, failure: Failure | None) -> Failure | None:
        """The failure, or the rest of an engine that is known not to hang: it says that it sleeps,
        is paused or is being scaled.
        """
        if failure is None or failure.reason not in _LIKE_A_REST:
            return failure
        requests = self._context.requests
        rest = await requests.rest(await requests.observe())
        if rest is None:
            return failure
        return Failure(rest, f"as the engine says, after {failure.reason}: {failure.detail}")

    async def _send(self, request: ChatRequest, on_token: Callable[[int], None]) -> Chat:
        context = self._context
        return await context.ids.send(context.scope, request, context.plan.deadlines, on_token)

    async def _resend(self, request: ChatRequest, twice: bool) -> Sequence[Chat] | None:
        """Send a turn's prompt again for one token of answer; see `loss_evidence.Resend`."""
        short = replace(request, max_tokens=1)

        async def send() -> Chat:
            return await self._send(short, lambda _chunks: None)

        answers: Sequence[Chat] = (
            await overlapping(lambda begun: self._send(request, begun), send)
            if twice
            else [await send()]
        )
        usable = all(
            one.if_sent_once().failure is None and one.usage is not None for one in answers
        )
        return answers if usable else None

    async def _send_control(
        self, index: int, request: ChatRequest, place: Place | None, now: Place
    ) -> Control | None:
        """Send the turn's cold control if its place is `now`."""
        context = self._context
        if context.control is None or place is not now:
            return None
        # The words at the head keep requests apart, so they are new, too. A store may ignore salts,
        # and then it would serve the turn what the control computed.
        if self._record.nonce or has_store(context.requests.latest):
            opening = with_text_before(self._scenario.steps[0][0], context.new_salt())
            request = replace(request, messages=[opening, *request.messages[1:]])
        context.hooks.on_request(True)
        control, usage = await context.control.send(
            context.scope, request, context.plan.deadlines, now
        )
        self._record.control_usage[index] = usage
        return control


def with_context(info: EngineInfo, capabilities: Capabilities) -> EngineInfo:
    """The engine with the context length that a refusal named, if its model card names none."""
    return replace(info, max_model_len=info.max_model_len or capabilities.contexts.get(info.model))
