"""One prompt under two salts: the same salt must hit, another one must not.

The prompt is made for this one test, and its first words are of this test alone, so that nothing
else can have left it in the cache. It spans more than three match units, which makes the second
request a test of the cache itself: an identical prompt, sent twice in a row, must hit. Where it
does not, a third one tells an engine that hits late from one that does not hit, and two at the same
time tell both from one whose cache something empties again and again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.cache.repeat import (
    WEDGE_UNITS,
)
from exporter.analysis.cache.traffic import OwnUse, room_beside, traffic_between
from exporter.analysis.isolation import SaltTest
from exporter.clock import SystemClock
from exporter.engine.wire.request import ChatRequest
from exporter.errors import ScenarioError
from exporter.model.chat import CachedTokensSource
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.overlapping import overlapping
from exporter.probe.replicas import ReplicaDetector
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.scenario.fitting import fit
from exporter.scenario.model import Scenario, ScenarioKind, headed, refuses_system

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.analysis.cache.engine_memory import EngineMemory
    from exporter.engine.client.engine_client import EngineClient
    from exporter.engine.wire.request import Deadlines
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineInfo
    from exporter.probe.engine_requests import Scope
    from exporter.probe.replicas import Observe
    from exporter.scenario.model import Message


_ANSWER_TOKENS = 32
"""Of a prompt that is sent again while it is being answered."""


async def try_salts(
    client: EngineClient,
    info: EngineInfo,
    observe: Observe,
    deadlines: Deadlines,
    new_salt: Callable[[], str],
    *,
    requests: EngineRequests | None = None,
) -> SaltTest:
    """Send the prompt under a new salt twice, then under another new one.

    `requests` is what others ask the same engine through, too.
    """
    requests = requests or EngineRequests(client, observe, SystemClock())
    replicas = ReplicaDetector(observe)
    before = await replicas.first()
    chats, memory = requests.scope(info, before), requests.memory
    client.answered_by(requests.process)
    unit, hit_before = memory.likely_unit, memory.hit
    prompt, salt, share = (
        _Prompt(client, info, deadlines, chats, memory),
        new_salt(),
        requests.share,
    )
    try:
        same = [await prompt.send_first(salt, new_salt(), WEDGE_UNITS * (unit or 0) + 1)]
    except ScenarioError as error:
        return SaltTest(match_unit=unit, too_long=str(error))
    while same[-1].failure is None and (len(same) == 1 or _missed_once(chats, same)):
        same.append(await prompt.send(salt))
    if len(same) > 2 and _told_a_miss(chats, same[-1]):  # noqa: PLR2004 - all the three
        same += await prompt.send_beside(salt)
    own = OwnUse.between(share, requests.share, sum(chat.tokens for chat in same))
    same_ids = _same_ids(same) if _same_ids(same) is not None else await prompt.renders_alike(same)
    after = await replicas.next()
    refused = client.learned.refuses_salts
    answers = list(same)
    if same[-1].failure is None and not refused:
        answers.append(await prompt.send(new_salt()))
    if answers[-1].failure is not None:
        return SaltTest(match_unit=unit, failure=answers[-1].failure, tokens=chats.asked_tokens)
    cached = [chats.settled(chat.usage).cached_tokens if chat.usage else None for chat in answers]
    beside = max((hit for hit in cached[3 : len(same)] if hit is not None), default=None)
    hit_before = hit_before or bool(beside)
    memory.hit = memory.hit or bool(cached[1]) or bool(beside)
    one, other = (view.snapshot if view else None for view in (before, after))
    traffic, usage = traffic_between(one, other, own), same[0].usage
    return SaltTest(
        prompt_tokens=usage.prompt_tokens if usage else None,
        first_cached=cached[0],
        same_salt_cached=cached[1],
        third_cached=cached[2] if len(same) > 2 else None,  # noqa: PLR2004 - sent once more
        beside_cached=beside,
        other_salt_cached=None if refused else cached[-1],
        match_unit=unit,
        ranks=other.ranks if other else None,
        prefix_caching=other.cache.prefix_caching if other and other.cache else None,
        tokens=chats.asked_tokens,
        traffic=traffic,
        room=room_beside(usage.prompt_tokens if usage else 0, one, other),
        same_ids=same_ids,
        hit_before=hit_before,
        transfer=memory.transfers,
        salt_refused=refused,
        mixed=replicas.proof is not None or (traffic is not None and traffic.elsewhere > 0),
    )


class _Prompt:
    """The prompt of one test."""

    def __init__(
        self,
        client: EngineClient,
        info: EngineInfo,
        deadlines: Deadlines,
        chats: Scope,
        memory: EngineMemory,
    ) -> None:
        self._client = client
        self._info = info
        self._deadlines = deadlines
        self._chats = chats
        self._memory = memory
        self._messages: list[Message] = []

    async def send_first(self, salt: str, nonce: str, wanted_tokens: int) -> Chat:
        """Make the prompt and send it; without a system message where the engine refuses one.

        Raises `ScenarioError` where the model's context is too short.
        """
        await self._make(nonce, wanted_tokens)
        chat = await self.send(salt)
        if chat.failure is not None and refuses_system(chat.failure) and not self._memory.no_system:
            self._memory.no_system = True
            await self._make(nonce, wanted_tokens)
            chat = await self.send(salt)
        return replace(chat, usage=self._memory.sent_new(chat.usage))

    async def send(
        self, salt: str, tokens: int = 1, on_token: Callable[[int], None] | None = None
    ) -> Chat:
        """The answer to the prompt under a salt."""
        request = ChatRequest(self._info.model, self._messages, tokens, salt)
        return (await self._chats.chat(request, self._deadlines, on_token)).once()

    async def send_beside(self, salt: str) -> tuple[Chat, Chat]:
        """The answers to the prompt, sent twice at the same time under a salt."""
        return await overlapping(
            lambda begun: self.send(salt, _ANSWER_TOKENS, begun), lambda: self.send(salt)
        )

    async def renders_alike(self, answers: Sequence[Chat]) -> bool | None:
        """Whether /tokenize gives the same ids each time, as many as usage counts: where answers
        carry none. None where it is not served, or where nothing depends on it.
        """
        used = {chat.usage.prompt_tokens if chat.usage else None for chat in answers}
        if len(answers) < 3:  # noqa: PLR2004 - the second one hit
            return None
        ids = [await self._client.tokenize(self._info.model, self._messages, ()) for _ in range(2)]
        if ids[0] is None or ids[1] is None or used != {len(ids[0])}:
            return None
        return ids[0] == ids[1]

    async def _make(self, nonce: str, wanted_tokens: int) -> None:
        kind = _kind(nonce)
        if self._memory.no_system:
            kind = kind.without_system()
        scenario, _ = await fit(kind, self._client, self._info, wanted_tokens, 1)
        self._messages = scenario.first_messages()


def _kind(nonce: str) -> ScenarioKind:
    """The coding agent's opening without its tools, behind words that no other prompt has."""

    def build(padding: int) -> Scenario:
        system, *rest = CODING_AGENT.build(padding).steps[0]
        opening = headed(system, nonce)
        return Scenario("salts", (), ((opening, *rest), ({"role": "user", "content": "Go on."},)))

    return ScenarioKind("salts", build)


def _missed_once(chats: Scope, same: Sequence[Chat]) -> bool:
    """Whether the second of two hit nothing, as far as the server tells."""
    usage = same[-1].usage
    return len(same) == 2 and usage is not None and chats.settled(usage).cached_tokens == 0  # noqa: PLR2004


def _told_a_miss(chats: Scope, chat: Chat) -> bool:
    """By usage: counters cannot tell two requests at the same time apart."""
    usage = None if chat.usage is None else chats.settled(chat.usage)
    told = usage is not None and usage.source is CachedTokensSource.USAGE
    return told and usage is not None and usage.cached_tokens == 0


def _same_ids(same: Sequence[Chat]) -> bool | None:
    """Whether all had the same token ids; None where those of one are not known."""
    ids = [chat.prompt_token_ids for chat in same]
    return None if None in ids else len(set(ids)) == 1
