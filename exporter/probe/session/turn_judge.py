"""Judges the turns of a session, in order: what each could have hit, and what took the rest.

The hit is learned before the loss is named, because hits tell the engine's reuse rule. A later turn
can settle an earlier one (`SessionRecord.settle`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.reuse.cache_math import EngineCircumstances, reusable
from exporter.analysis.reuse.learning import Observation
from exporter.analysis.reuse.rule import sent_again
from exporter.analysis.turn_facts import TurnBasis, expected_tokens, ideal_of, turn_facts
from exporter.analysis.turn_notices import turn_notices
from exporter.model.session import LossCause, Notice
from exporter.probe.session.loss_evidence import LossEvidence

if TYPE_CHECKING:
    from exporter.analysis.loss.causes import Evidence
    from exporter.analysis.loss.session_blocks import SessionBlocks
    from exporter.analysis.reuse.cache_math import Reusable
    from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
    from exporter.model.chat import Chat
    from exporter.model.engine import EngineView
    from exporter.model.session import Loss, TurnFacts
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
        blocks: SessionBlocks | None = None,
        *,
        learns: bool = True,
    ) -> None:
        """`before` is the reading before the first turn; see `LossEvidence` for `blocks`, and
        `SessionPlan` for `learns`.
        """
        self._learns = learns
        self._record = record
        self._requests = requests
        self._replicas = replicas
        self._cache = before.snapshot.cache if before and before.snapshot else None
        self._evidence = LossEvidence(replicas, before, requests, blocks, record.rank)
        self._before = requests.knowledge  # of the process that answered the turn before

    @property
    def _knowledge(self) -> EngineKnowledge:
        return self._requests.knowledge  # another object after a restart of the engine

    async def judge(self, turn: Chat, resend: Resend) -> TurnFacts:
        """Add the turn to the record. `resend` sends its prompt again, if that is needed."""
        record, earlier = self._record, self._record.turns
        turn = self._without_transfer(turn)
        self._evidence.add_turn(turn)
        shared, before = reusable(turn, earlier), self._before
        expected = expected_tokens(TurnBasis(not earlier, self._knowledge, shared))
        evidence = await self._evidence_about(turn, expected, resend)
        restarted = evidence is not None and evidence.restarted is True
        if restarted:
            self._requests.forget()
        if _hit_at_once(evidence, shared):
            self._knowledge.hit = True
        if evidence is not None:
            evidence = replace(evidence, hit_before=self._knowledge.hit)
        sound = evidence is None and (turn.cached_tokens or 0) >= (expected or 0)
        disturbed = _disturbed(evidence) if evidence is not None else not sound
        disturbed = disturbed or not self._evidence.undisturbed
        self._learn(turn, shared, disturbed=disturbed)
        await self._tell_rules_apart(turn, resend)
        # A restart took what the process before could have served.
        basis = TurnBasis(not earlier, before if restarted else self._knowledge, shared, evidence)
        facts = turn_facts(turn, basis)
        record.turns.append(turn)
        record.facts.append(facts)
        record.basis.append(basis)
        record.knowledge = self._before = self._knowledge
        record.notices |= turn_notices(turn, ideal_of(basis), self._circumstances())
        self._note_mixed(turn, facts.loss)
        return facts

    def _note_mixed(self, turn: Chat, lost: Loss | None) -> None:
        """Note that several engines answer, and where that is proven for the whole session."""
        mixed = lost is not None and lost.cause is LossCause.MIXED
        if lost is not None and mixed and turn.replica is None:
            self._replicas.proof = lost.evidence
        if mixed or self._replicas.proof is not None:
            self._record.notices.add(Notice.MIXED)

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

    async def _evidence_about(
        self, turn: Chat, expected: int | None, resend: Resend
    ) -> Evidence | None:
        record, unit = self._record, self._knowledge.unit
        if not expected or not unit or record.hides(turn.usage):
            return None
        return await self._evidence.about(turn, expected, unit, record.turns, resend)

    def _circumstances(self) -> EngineCircumstances:
        return EngineCircumstances(
            match_unit_tokens=self._cache.match_unit_tokens if self._cache else None,
            prefix_caching=self._cache.prefix_caching if self._cache else None,
            label_is_wrong=self._knowledge.label_is_wrong,
        )

    def _learn(self, turn: Chat, shared: Reusable | None, *, disturbed: bool) -> None:
        """Remember what the turn's hit shows of this process."""
        earlier, usage = self._record.turns, turn.usage
        cached = usage.local_tokens if usage is not None else None
        if usage is None or cached is None or not earlier or self._replicas.proof is not None:
            return
        if usage.external_tokens and usage.cached_tokens:
            # What the store added is no evidence for the rule of the engine's own cache, and why
            # that one was short is not known.
            disturbed = True
            if usage.cached_tokens < usage.prompt_tokens - 1:
                self._knowledge.observe_store(usage.cached_tokens)
        if self._learns and shared is not None and shared.exact is not None:
            self._knowledge.observe(Observation(shared.exact, cached, disturbed))
        # The tokens of the turn before the last were sent twice already. A first turn may hit what
        # all prompts of this engine begin with.
        known = earlier[-2].tokens if len(earlier) > 1 else earlier[0].cached_tokens or 0
        if cached > known and self._evidence.repeated != turn.index - 1:
            self._knowledge.hit = True

    async def _tell_rules_apart(self, turn: Chat, resend: Resend) -> None:
        """Send the prompt again, once in a process, where that tells rules apart that are open.

        A dropped block and an answer that is not kept look the same where answers are as long as a
        unit. A repeat has no answer to reuse.
        """
        knowledge, known = self._knowledge, self._knowledge.learned
        asked = knowledge.asked or not self._learns
        if asked or known is None or self._replicas.proof is not None:
            return
        prompt = len(turn.prompt_token_ids or ())
        again = sent_again(prompt)
        if not known.told_apart_by(again):
            return
        knowledge.asked = True
        repeat = await self._evidence.repeat(turn, resend)
        if repeat is not None:
            cached, disturbed = repeat
            knowledge.observe(Observation(again, cached, disturbed))


def _hit_at_once(evidence: Evidence | None, shared: Reusable | None) -> bool:
    """Whether the repeat of a turn hit tokens that only that turn itself had sent before."""
    if evidence is None or evidence.repeat is None or shared is None:
        return False
    return evidence.repeat.cached > max((one.shared for one in shared.most.earlier), default=0)


def _disturbed(evidence: Evidence) -> bool:
    """Whether something other than the reuse rule may have made a hit shorter."""
    # Counters that only grew show that no restart came between.
    restarted = evidence.restarted is True or evidence.traffic is None
    gone = restarted or evidence.several is not None
    return gone or evidence.pressed is not False or evidence.ranks != 1
