"""Judges the turns of a session, one after another: what each could have hit, and what took the
rest. What a turn hit is learned first, since hits tell the unit that the ideal is counted in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.cache.cache_math import EngineCircumstances, reusable, turn_facts, turn_ideal
from exporter.analysis.cache.match_unit import Hit
from exporter.analysis.cache.own_rule import own_rule
from exporter.analysis.loss.causes import loss
from exporter.analysis.turn_notices import turn_notices
from exporter.model.session import LossCause, Notice
from exporter.probe.session.loss_evidence import LossInquiry

if TYPE_CHECKING:
    from exporter.analysis.cache.cache_math import Shared
    from exporter.analysis.cache.engine_memory import EngineMemory
    from exporter.analysis.loss.causes import Evidence
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineView
    from exporter.model.session import TurnFacts
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.replicas import ReplicaDetector
    from exporter.probe.session.loss_evidence import Again
    from exporter.probe.session.record import Played


class TurnJudge:
    """Judges one way through a scenario."""

    def __init__(
        self, requests: EngineRequests, replicas: ReplicaDetector, before: EngineView | None
    ) -> None:
        self._requests = requests
        self._replicas = replicas
        self._before = before
        self._inquiry = LossInquiry(
            replicas, before, lambda: requests.share, lambda: requests.memory
        )

    @property
    def _memory(self) -> EngineMemory:
        return self._requests.memory

    async def judge(self, turn: Chat, played: Played, again: Again) -> TurnFacts:
        """Add a turn to what was played, with what it says of the cache."""
        inquiry, earlier = self._inquiry, played.turns
        turn = self._without_transfer(turn, played)
        inquiry.used(turn)
        expected = turn_ideal(turn, earlier, self._memory.likely_unit)
        evidence, unit = None, self._memory.likely_unit
        if expected and unit and not played.hides(turn.usage):
            evidence = await inquiry.evidence(turn, expected, unit, earlier, again)
        if evidence is not None and evidence.restarted:
            self._requests.forget()
        shared = reusable(turn, earlier)
        if _hit_at_once(evidence, shared):
            self._memory.hit = True
        hit_before = self._memory.hit
        self._learn(turn, shared, evidence, earlier)
        ideal = turn_ideal(turn, earlier, self._memory.match_unit)
        if evidence is not None:
            unit = self._memory.likely_unit or evidence.match_unit
            evidence = replace(evidence, ideal=ideal or 0, match_unit=unit, hit_before=hit_before)
            rule = self._own_rule(turn, shared, evidence, earlier)
            evidence = replace(evidence, own_rule=rule)
            played.evidence[turn.index] = evidence
        known = turn.cached_tokens is not None
        facts = turn_facts(turn, ideal, loss(evidence) if evidence and known else None)
        played.turns.append(turn)
        played.facts.append(facts)
        played.notices |= turn_notices(turn, ideal, self._circumstances())
        if facts.loss is not None and facts.loss.cause is LossCause.MIXED:
            self._replicas.proof = facts.loss.evidence  # and stays so for the rest of the session
        if self._replicas.proof is not None:
            played.notices.add(Notice.MIXED)
        return facts

    def _without_transfer(self, turn: Chat, played: Played) -> Chat:
        """A later turn brings words that nobody sent before: where all of it but the last token, or
        all, counts as cached, that was no hit, and this process counts transfers.
        """
        usage, earlier = turn.usage, played.turns
        if (
            not earlier
            or usage is None
            or (cached := turn.cached_tokens or 0) < usage.prompt_tokens - 1
        ):
            return turn
        whole_units = self._memory.label is not None and cached % self._memory.label == 0
        sent_before = (
            cached <= max(one.tokens for one in earlier) or turn.index in played.control_usage
        )
        if earlier[0].cached_tokens or whole_units or sent_before:
            return turn
        return replace(turn, usage=self._memory.sent_new(usage))

    def _circumstances(self) -> EngineCircumstances:
        cache = self._before.snapshot.cache if self._before and self._before.snapshot else None
        return EngineCircumstances(
            match_unit_tokens=cache.match_unit_tokens if cache else None,
            prefix_caching=cache.prefix_caching if cache else None,
            label_is_wrong=self._memory.label_is_wrong,
        )

    def _learn(
        self, turn: Chat, shared: Shared | None, evidence: Evidence | None, earlier: list[Chat]
    ) -> None:
        """Remember what the turn's hit shows of this process."""
        hit = _hit(turn, shared, evidence, earlier)
        if hit is None or not hit.cached or self._replicas.proof is not None:
            return
        self._memory.saw(hit)
        # What the turn before the last had was sent twice before, and a first turn may hit what
        # all prompts of this engine begin with.
        known = earlier[-2].tokens if len(earlier) > 1 else earlier[0].cached_tokens or 0
        if hit.cached > known and self._inquiry.repeated != turn.index - 1:
            self._memory.hit = True

    def _own_rule(
        self, turn: Chat, shared: Shared | None, evidence: Evidence, earlier: list[Chat]
    ) -> str | None:
        hit = _hit(turn, shared, evidence, earlier)
        if hit is None:
            return None
        return own_rule(hit, evidence.match_unit, self._memory.hits, self._inquiry.engine)


def _hit(
    turn: Chat, shared: Shared | None, evidence: Evidence | None, earlier: list[Chat]
) -> Hit | None:
    """What a later turn hit; None where that is not known."""
    cached = turn.cached_tokens
    if cached is None or not earlier:
        return None
    if shared is None or shared.least != shared.most:
        return Hit(cached, cached)  # how much it could have hit is not known
    before = earlier[-1].usage
    return Hit(
        shared.least,
        cached,
        disturbed=evidence is not None and _disturbed(evidence),
        prompt_before=before.prompt_tokens if before else None,
    )


def _hit_at_once(evidence: Evidence | None, shared: Shared | None) -> bool:
    """Whether the repeat of a turn hit what was sent only once before, by that turn itself."""
    if evidence is None or evidence.repeat is None or shared is None:
        return False
    return evidence.repeat.cached > shared.most


def _disturbed(evidence: Evidence) -> bool:
    """Whether something else than the engine's own rule may have made a hit shorter."""
    gone = evidence.restarted is not False or evidence.several is not None
    return gone or evidence.pressed is not False
