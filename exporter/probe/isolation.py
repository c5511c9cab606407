"""The isolation test: one prompt under two salts. The same salt must hit, the other must not.

Each test makes a prompt of its own, with a nonce at its head, so nothing else can have put it into
the cache. All its requests belong to one session: another salt proves something only on the replica
and the rank that have the prompt.

The prompt spans more than three match units, so a second request under the same salt must hit: that
tests the cache itself. If it misses, a third request tells an engine that hits late from one that
never hits. Two overlapping requests tell both from a cache that is emptied again and again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.hits.counted_hits import may_have_store
from exporter.analysis.hits.traffic import OwnTraffic, pressed, room_beside, traffic_between
from exporter.analysis.isolation import IsolationTest
from exporter.analysis.reuse.learning import Observation
from exporter.analysis.reuse.repeated_prompt import WEDGE_UNITS
from exporter.analysis.reuse.rule import sent_again
from exporter.engine.wire.request import ChatRequest
from exporter.errors import ScenarioError
from exporter.model.chat import CachedTokensSource
from exporter.probe.overlapping import overlapping
from exporter.probe.replicas import ReplicaDetector
from exporter.probe.request_scope import RequestScope
from exporter.scenario.fitting import TokenCounter, fit
from exporter.scenario.isolation_prompt import isolation_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.engine.wire.request import Deadlines, RequestContext
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo
    from exporter.probe.engine_requests import EngineRequests
    from exporter.scenario.model import Message


_UNSETTLED_UNITS = 6
"""Match units of a prompt while the unit may be twice as long, and its last one be dropped."""
_STORE_CHUNK = 256
"""Tokens. A KV store serves whole chunks. This is the default of LMCache."""
_OVERLAP_ANSWER_TOKENS = 32
"""Length of an answer during which the same prompt is sent again."""


async def run_isolation_test(
    requests: EngineRequests,
    info: EngineInfo,
    deadlines: Deadlines,
    new_salt: Callable[[], str],
    *,
    least_tokens: int = 0,
) -> IsolationTest:
    """Send the prompt under a new salt two to five times, then once under another new salt.

    The prompt is as short as the test allows, because it takes room in the cache, but not shorter
    than `least_tokens`: a longer one is easier to tell from what other clients do.
    """
    replicas = ReplicaDetector(requests.observe)
    before = await replicas.first()
    scope, knowledge = RequestScope(requests, info, before), requests.knowledge
    unit, hit_before, share = knowledge.unit, knowledge.hit, requests.share
    session = requests.new_session(before, info)
    prompt = _Prompt(requests, scope, info, deadlines, session)
    try:
        same = await prompt.send_same(
            new_salt(), new_salt(), max(least_tokens, _wanted_tokens(requests))
        )
    except ScenarioError as error:
        return IsolationTest(match_unit=unit, too_long=str(error))
    own = OwnTraffic.between(share, requests.share, sum(chat.tokens for chat in same))
    same_ids = await prompt.same_ids(same)
    after = await replicas.next()
    other, refused = None, requests.client.capabilities.refuses_salts
    if same[-1].failure is None and not refused:
        other = await prompt.send(new_salt())
    failure = (other or same[-1]).failure
    if failure is not None:
        return IsolationTest(match_unit=unit, failure=failure, tokens=scope.sent_tokens)
    test = prompt.result(same, other)
    knowledge.hit = knowledge.hit or bool(test.same_salt_cached) or bool(test.overlap_cached)
    earlier, now = (view.snapshot if view else None for view in (before, after))
    traffic = traffic_between(earlier, now, own)
    test = replace(
        test,
        match_unit=unit,
        ranks=requests.ranks.answering(session.rank, now),
        prefix_caching=now.cache.prefix_caching if now and now.cache else None,
        tokens=scope.sent_tokens,
        traffic=traffic,
        room=room_beside(test.prompt_tokens or 0, earlier, now),
        same_ids=same_ids,
        hit_before=hit_before or bool(test.overlap_cached),
        transfer=knowledge.transfers,
        salt_refused=refused,
        mixed=(
            replicas.proof is not None
            or (traffic is not None and traffic.elsewhere > 0)
            or (requests.placement.active and not _on_one_replica([*same, other]))
        ),
    )
    seen = _repeat_of(test)
    if seen is not None:
        knowledge.observe(seen)
    return replace(test, possible=knowledge.repeat_hit(test.prompt_tokens or 0))


def _wanted_tokens(requests: EngineRequests) -> int:
    """The length of a prompt that a working cache, and a store behind it, must hit."""
    knowledge = requests.knowledge
    unit, to_span = knowledge.unit or 0, knowledge.unit_to_span or 0
    units = WEDGE_UNITS if to_span == unit else _UNSETTLED_UNITS
    chunk = (knowledge.store_chunk or _STORE_CHUNK) if may_have_store(requests.latest) else 0
    return max(units * to_span, chunk) + 1


def _on_one_replica(chats: Sequence[Chat | None]) -> bool:
    """Whether all of them are known to have run on the same replica."""
    replicas = {chat.replica for chat in chats if chat is not None}
    return len(replicas) == 1 and None not in replicas


def _repeat_of(test: IsolationTest) -> Observation | None:
    """What the repeat shows of the reuse rule; None if the two prompts may have differed."""
    prompt, cached = test.prompt_tokens, test.same_salt_local
    if prompt is None or cached is None or not test.same_ids or test.mixed or not test.comparable:
        return None
    filled = cached != test.same_salt_cached
    disturbed = filled or pressed(test.traffic, test.room) is not False or test.ranks != 1
    return Observation(sent_again(prompt), cached, disturbed)


class _Prompt:
    """Makes the prompt of one test, and sends it."""

    def __init__(
        self,
        requests: EngineRequests,
        scope: RequestScope,
        info: EngineInfo,
        deadlines: Deadlines,
        session: RequestContext,
    ) -> None:
        self._session = session
        self._client = requests.client
        self._knowledge = requests.knowledge
        self._scope = scope
        self._info = info
        self._deadlines = deadlines
        self._messages: list[Message] = []

    async def send_same(self, salt: str, nonce: str, wanted_tokens: int) -> list[Chat]:
        """Make the prompt and send it under one salt until it hits, fails, or missed five times.

        Raises `ScenarioError` if the model's context is too short.
        """
        first = await self._send_first(salt, nonce, wanted_tokens)
        if first.failure is not None:
            return [first]
        same = [first, await self.send(salt)]
        second = self._settled(same[1])
        if same[1].failure is not None or second is None or second.cached_tokens != 0:
            return same
        same.append(await self.send(salt))
        third = self._settled(same[2])
        # By usage only: counters cannot tell two overlapping requests apart.
        told = third is not None and third.source is CachedTokensSource.USAGE
        if told and third is not None and third.cached_tokens == 0:
            same += await overlapping(
                lambda begun: self.send(salt, _OVERLAP_ANSWER_TOKENS, begun),
                lambda: self.send(salt),
            )
        return same

    async def send(
        self, salt: str, tokens: int = 1, on_token: Callable[[int], None] | None = None
    ) -> Chat:
        """The answer to the prompt under a salt."""
        request = ChatRequest(self._info.model, self._messages, tokens, salt, context=self._session)
        return (await self._scope.chat(request, self._deadlines, on_token)).if_sent_once()

    def result(self, same: Sequence[Chat], other: Chat | None) -> IsolationTest:
        """The cached tokens of all answers, by all that is known now."""
        cached, usage = [self._cached(chat) for chat in same], same[0].usage
        repeat, found = self._settled(same[1]), self._settled(other) if other else None
        return IsolationTest(
            prompt_tokens=usage.prompt_tokens if usage else None,
            first_cached=cached[0],
            same_salt_cached=cached[1],
            third_cached=cached[2] if len(same) > 2 else None,  # noqa: PLR2004 - sent a third time
            overlap_cached=max((hit for hit in cached[3:] if hit is not None), default=None),
            other_salt_cached=self._cached(other) if other else None,
            other_salt_external=found.external_tokens if found else None,
            same_salt_local=repeat.local_tokens if repeat else None,
        )

    async def same_ids(self, same: Sequence[Chat]) -> bool | None:
        """Whether all had the same token ids; None where that is unknown.

        Where answers carry no ids, /tokenize renders the prompt twice. It must give as many ids as
        usage counts. Two answers need no check: the second one hit.
        """
        ids = [chat.prompt_token_ids for chat in same]
        if None not in ids:
            return len(set(ids)) == 1
        if len(same) < 3:  # noqa: PLR2004 - see above
            return None
        used = {chat.usage.prompt_tokens if chat.usage else None for chat in same}
        one, two = [
            await self._client.tokenize(self._info.model, self._messages, (), self._session)
            for _ in range(2)
        ]
        return one == two if one is not None and two is not None and used == {len(one)} else None

    async def _send_first(self, salt: str, nonce: str, wanted_tokens: int) -> Chat:
        await self._make(nonce, wanted_tokens)
        chat = await self.send(salt)
        return replace(chat, usage=self._knowledge.usage_of_new_prompt(chat.usage))

    async def _make(self, nonce: str, wanted_tokens: int) -> None:
        counter = TokenCounter(self._client, self._session)
        kind = isolation_prompt(nonce)
        scenario, _ = await fit(kind, counter, self._info, wanted_tokens, 1)
        self._messages = scenario.first_messages()

    def _cached(self, chat: Chat) -> int | None:
        usage = self._settled(chat)
        return usage.cached_tokens if usage else None

    def _settled(self, chat: Chat) -> Usage | None:
        return None if chat.usage is None else self._scope.settled(chat.usage)
