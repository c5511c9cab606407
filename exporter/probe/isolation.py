"""One prompt under two salts: the same salt must hit, another one must not.

The prompt is made for this one test, and its first words are of this test alone, so that nothing
else can have left it in the cache. It spans more than three match units, which makes the second
request a test of the cache itself: an identical prompt, sent twice in a row, must hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.clock import SystemClock
from exporter.engine.client import ChatRequest
from exporter.errors import ScenarioError
from exporter.probe.asking import EngineRequests
from exporter.probe.coding_agent import CODING_AGENT
from exporter.probe.fitting import fit
from exporter.probe.loss import WEDGE_UNITS, OwnUse, room_beside, traffic_between
from exporter.probe.replicas import ReplicaWatch
from exporter.probe.scenario import Scenario, ScenarioKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.engine.client import Deadlines, EngineClient
    from exporter.model import EngineInfo, EngineView, Failure, Usage
    from exporter.probe.inquiry import Observe


@dataclass(frozen=True, slots=True)
class SaltTest:
    """What the three requests showed, in tokens; None is unknown.

    `crowded` says whether others can have pushed the prompt out between the first two requests,
    `mixed` whether they are known to have met several engines, `tokens` what all three took,
    prompts and answers.
    """

    prompt_tokens: int | None = None
    first_cached: int | None = None
    same_salt_cached: int | None = None
    other_salt_cached: int | None = None
    match_unit: int | None = None
    ranks: int | None = None
    prefix_caching: bool | None = None
    tokens: int = 0
    crowded: bool | None = None
    mixed: bool = False
    failure: Failure | None = None
    too_long: str | None = None

    @property
    def leaked(self) -> int | None:
        """Tokens that a request under a salt of its own was served; None where unknown."""
        known = [one for one in (self.first_cached, self.other_salt_cached) if one is not None]
        return max(known) if len(known) == 2 or any(known) else None  # noqa: PLR2004 - both

    @property
    def possible(self) -> int | None:
        """The most that the repeat can hit: whole units, and never the prompt's last token."""
        if self.prompt_tokens is None or not self.match_unit:
            return None
        return (self.prompt_tokens - 1) // self.match_unit * self.match_unit


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
    replicas = ReplicaWatch(observe)
    before = await replicas.first()
    unit = _match_unit(before)
    try:
        scenario, _ = await fit(_kind(new_salt()), client, info, WEDGE_UNITS * (unit or 0) + 1, 1)
    except ScenarioError as error:
        return SaltTest(match_unit=unit, too_long=str(error))
    messages = scenario.first_messages()
    one, other = new_salt(), new_salt()
    usages: list[Usage | None] = []
    chats, share_before, after = requests.scope(info, before), requests.share, None
    for salt in (one, one, other):
        chat = await chats.chat(ChatRequest(info.model, messages, 1, salt), deadlines)
        if chat.failure is not None:
            return SaltTest(match_unit=unit, failure=chat.failure, tokens=chats.asked_tokens)
        usages.append(chat.usage)
        if len(usages) == 2:  # noqa: PLR2004 - the same salt twice
            after = await replicas.next()
            own_twice = OwnUse.between(share_before, requests.share)
            crowded = _crowded(before, after, own_twice, chat.usage)
    cached = [chats.settled(usage).cached_tokens if usage else None for usage in usages]
    return SaltTest(
        prompt_tokens=usages[0].prompt_tokens if usages[0] else None,
        first_cached=cached[0],
        same_salt_cached=cached[1],
        other_salt_cached=cached[2],
        match_unit=unit,
        ranks=after.snapshot.ranks if after and after.snapshot else None,
        prefix_caching=_prefix_caching(after),
        tokens=chats.asked_tokens,
        crowded=crowded,
        mixed=replicas.proof is not None or _elsewhere(before, after, own_twice),
    )


def _kind(nonce: str) -> ScenarioKind:
    """The coding agent's opening without its tools, behind words that no other prompt has."""

    def build(padding: int) -> Scenario:
        system, *rest = CODING_AGENT.build(padding).steps[0]
        opening = {**system, "content": f"{nonce}\n{system['content']}"}
        return Scenario("salts", (), ((opening, *rest), ({"role": "user", "content": "Go on."},)))

    return ScenarioKind("salts", build)


def _crowded(
    before: EngineView | None, after: EngineView | None, own: OwnUse, usage: Usage | None
) -> bool | None:
    one, other = (view.snapshot if view else None for view in (before, after))
    traffic = traffic_between(one, other, own)
    room = room_beside(usage.prompt_tokens if usage else 0, one, other)
    return None if traffic is None or room is None else traffic.foreign >= room


def _elsewhere(before: EngineView | None, after: EngineView | None, own: OwnUse) -> bool:
    """Whether the engine that was read did not look up all that was sent."""
    one, other = (view.snapshot if view else None for view in (before, after))
    traffic = traffic_between(one, other, own)
    return traffic is not None and traffic.elsewhere > 0


def _match_unit(view: EngineView | None) -> int | None:
    cache = view.snapshot.cache if view and view.snapshot else None
    return cache.match_unit_tokens if cache else None


def _prefix_caching(view: EngineView | None) -> bool | None:
    cache = view.snapshot.cache if view and view.snapshot else None
    return cache.prefix_caching if cache else None
