"""Judges the turns of a session, in order: what each could have hit, and what took the rest.

The hit is learned before the loss is named, because hits tell the unit that the ideal counts in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.hits.cache_math import EngineCircumstances, reusable, turn_facts, turn_ideal
from exporter.analysis.loss.causes import loss
from exporter.analysis.reuse.match_unit import Hit
from exporter.analysis.reuse.reuse_rule import reuse_rule_evidence
from exporter.analysis.turn_notices import turn_notices
from exporter.model.session import LossCause, Notice
from exporter.probe.session.loss_evidence import LossEvidence

if TYPE_CHECKING:
    from exporter.analysis.hits.cache_math import Shared
    from exporter.analysis.loss.causes import Evidence
    from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineView
    from exporter.model.session import TurnFacts
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.replicas import ReplicaDetector
    from exporter.probe.session.loss_evidence import Resend
    from exporter.probe.session.record import SessionRecord


class TurnJudge:
    """Judges one attempt at a session, and writes what it finds into the session's record."""

    def __init__(
        self,
        record: SessionRecord,
        requests: EngineRequests,
        replicas: ReplicaDetector,
        before: EngineView | None,
    ) -> None:
        """`before` is the reading before the first turn."""
        self._record = record
        self._requests = requests
        self._replicas = replicas
        self._cache = before.snapshot.cache if before and before.snapshot else None
        self._evidence = LossEvidence(replicas, before, requests)

    @property
    def _knowledge(self) -> EngineKnowledge:
        return self._requests.knowledge  # another object after a restart of the engine

    async def judge(self, turn: Chat, resend: Resend) -> TurnFacts:
        """Add the turn to the record. `resend` sends its prompt again, if that is needed."""
        record, earlier = self._record, self._record.turns
        turn = self._without_transfer(turn)
        self._evidence.add_turn(turn)
        evidence = await self._evidence_about(turn, resend)
        if evidence is not None and evidence.restarted:
            self._requests.forget()
        shared = reusable(turn, earlier)
        if _hit_at_once(evidence, shared):
            self._knowledge.hit = True
        hit_before = self._knowledge.hit
        hit = _hit(turn, shared, evidence, earlier)
        self._learn(turn, hit)
        ideal = turn_ideal(turn, earlier, self._knowledge.match_unit)
        lost = None
        if evidence is not None:
            evidence = replace(evidence, ideal=ideal or 0, hit_before=hit_before)
            evidence = record.evidence[turn.index] = self._with_own_rule(evidence, hit)
            lost = None if turn.cached_tokens is None else loss(evidence)
        facts = turn_facts(turn, ideal, lost)
        record.turns.append(turn)
        record.facts.append(facts)
        record.notices |= turn_notices(turn, ideal, self._circumstances())
        if facts.loss is not None and facts.loss.cause is LossCause.MIXED:
            self._replicas.proof = facts.loss.evidence  # holds for the rest of the session
        if self._replicas.proof is not None:
            record.notices.add(Notice.MIXED)
        return facts

    def _without_transfer(self, turn: Chat) -> Chat:
        """The turn, with a transfer from another engine not counted as a hit.

        A later turn contains new words. Where all of it, or all but the last token, counts as
        cached, no cache can have served that: this process counts transfers as cached.
        """
        usage, earlier, label = turn.usage, self._record.turns, self._knowledge.label
        cached = turn.cached_tokens or 0
        if not earlier or usage is None or cached < usage.prompt_tokens - 1:
            return turn
        whole_units = label is not None and cached % label == 0
        most_sent = max(one.tokens for one in earlier)
        sent_before = cached <= most_sent or turn.index in self._record.control_usage
        if earlier[0].cached_tokens or whole_units or sent_before:
            return turn
        return replace(turn, usage=self._knowledge.usage_of_new_prompt(usage))

    async def _evidence_about(self, turn: Chat, resend: Resend) -> Evidence | None:
        record, unit = self._record, self._knowledge.likely_unit
        expected = turn_ideal(turn, record.turns, unit)
        if not expected or not unit or record.hides(turn.usage):
            return None
        return await self._evidence.about(turn, expected, unit, record.turns, resend)

    def _circumstances(self) -> EngineCircumstances:
        return EngineCircumstances(
            match_unit_tokens=self._cache.match_unit_tokens if self._cache else None,
            prefix_caching=self._cache.prefix_caching if self._cache else None,
            label_is_wrong=self._knowledge.label_is_wrong,
        )

    def _learn(self, turn: Chat, hit: Hit | None) -> None:
        """Remember what the turn's hit shows of this process."""
        earlier = self._record.turns
        if hit is None or not hit.cached or self._replicas.proof is not None:
            return
        self._knowledge.add_hit(hit)
        # The tokens of the turn before the last were sent twice already. A first turn may hit what
        # all prompts of this engine begin with.
        known = earlier[-2].tokens if len(earlier) > 1 else earlier[0].cached_tokens or 0
        if hit.cached > known and self._evidence.repeated != turn.index - 1:
            self._knowledge.hit = True

    def _with_own_rule(self, evidence: Evidence, hit: Hit | None) -> Evidence:
        """The evidence with the match unit known now, and what the engine's own rule explains."""
        unit = self._knowledge.likely_unit or evidence.match_unit
        engine = self._evidence.engine
        rule = None if hit is None else reuse_rule_evidence(hit, unit, self._knowledge.hits, engine)
        return replace(evidence, match_unit=unit, reuse_rule=rule)


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
    """Whether the repeat of a turn hit tokens that only that turn itself had sent before."""
    if evidence is None or evidence.repeat is None or shared is None:
        return False
    return evidence.repeat.cached > shared.most


def _disturbed(evidence: Evidence) -> bool:
    """Whether something other than the engine's own rule may have made a hit shorter."""
    gone = evidence.restarted is not False or evidence.several is not None
    return gone or evidence.pressed is not False
