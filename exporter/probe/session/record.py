"""What is known of a session while it runs, and the result that it ends with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from exporter.analysis.turn_facts import turn_facts
from exporter.analysis.turn_notices import usage_notice
from exporter.analysis.wedge import wedge_of
from exporter.model.session import (
    ControlOutcome,
    Notice,
    PrefixStability,
    SessionResult,
    TurnFacts,
)

if TYPE_CHECKING:
    from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
    from exporter.analysis.turn_facts import TurnBasis
    from exporter.engine.wire.request import RequestContext
    from exporter.model.chat import Chat, Usage
    from exporter.model.engine import EngineInfo, Rank
    from exporter.model.failure import Failure
    from exporter.model.reuse import ReuseRule
    from exporter.probe.request_scope import RequestScope


@dataclass(slots=True)
class SessionRecord:
    """A session so far.

    `basis` is what each turn is judged by, `control_usage` the usage of the answers to cold
    controls, by turn. Both are kept because a later answer can settle cached tokens that are still
    unknown, or the engine's reuse rule. `knowledge` is that of the process that answered last.
    """

    scenario: str
    started_time: float  # Unix seconds
    started_at: float  # monotonic seconds
    api: str = "chat_completions"
    info: EngineInfo | None = None
    scope: RequestScope | None = None
    context: RequestContext | None = None
    turns: list[Chat] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    facts: list[TurnFacts] = field(default_factory=list)
    basis: list[TurnBasis] = field(default_factory=list)
    knowledge: EngineKnowledge | None = None
    control_usage: dict[int, Usage | None] = field(default_factory=dict)
    notices: set[Notice] = field(default_factory=set)
    failure: Failure | None = None
    failed_turn: int | None = None
    failed_request_id: str | None = None
    failed_sent_at: float | None = None
    prefix: PrefixStability | None = None
    nonce: bool = False  # a nonce in the prompt, not the salt, keeps the session apart
    sent_twice: bool = False  # it started over because a prompt may have been computed twice

    @property
    def rank(self) -> Rank | None:
        """The rank that it is pinned to."""
        return None if self.context is None else self.context.rank

    def start_over(self) -> None:
        """Drop all turns, which prove nothing. Their tokens still count as consumed."""
        for each in (self.turns, self.usages, self.facts, self.basis, self.control_usage):
            each.clear()
        self.notices.clear()
        self.prefix = None

    def hides(self, usage: Usage | None) -> bool:
        """Whether the server hides this answer's cached tokens, so they stay unknown."""
        if usage is None or usage.cached_tokens is not None or self.scope is None:
            return False
        return self.scope.lacks(usage)

    def settle(self) -> None:
        """Update turns and controls with what later answers have shown."""
        for place, turn in enumerate(self.turns):
            facts = self._settled_turn(place, turn)
            self.facts[place] = self._settled_control(facts)
        self.usages = [turn.usage for turn in self.turns if turn.usage is not None]

    def _settled_turn(self, place: int, turn: Chat) -> TurnFacts:
        facts = self.facts[place]
        usage = self.scope.settled(turn.usage) if self.scope and turn.usage else turn.usage
        if usage is not turn.usage:
            turn = self.turns[place] = replace(turn, usage=usage)
        return replace(turn_facts(turn, self.basis[place]), control=facts.control)

    def _settled_control(self, facts: TurnFacts) -> TurnFacts:
        control, usage = facts.control, self.control_usage.get(facts.index)
        if control is None or usage is None or self.scope is None:
            return facts
        usage = self.control_usage[facts.index] = self.scope.settled(usage)
        if control.outcome not in (ControlOutcome.UNREPORTED, ControlOutcome.COLD):
            return facts
        unreported = usage.cached_tokens is None
        outcome = ControlOutcome.UNREPORTED if unreported else ControlOutcome.COLD
        return replace(facts, control=replace(control, outcome=outcome))

    def result(self, target: str, now: float, rank: Rank | None = None) -> SessionResult:
        """The session as a frozen record that ended at the monotonic time `now`. `rank` is the one
        that ran all its requests, if it is known.
        """
        info, simulated = self.info, self.info is not None and self.info.simulated
        sent = self.scope.sent_tokens if self.scope is not None else 0
        return SessionResult(
            target=target,
            scenario=self.scenario,
            simulated=simulated,
            model=info.model if info else None,
            engine_version=info.version if info else None,
            started_time=self.started_time,
            duration_seconds=now - self.started_at,
            turns=tuple(self.facts),
            failure=self.failure,
            failed_turn=self.failed_turn,
            failed_request_id=self.failed_request_id,
            failed_sent_at=self.failed_sent_at,
            started_at=self.started_at,
            notices=frozenset(self.notices | self._late_notices(simulated=simulated)),
            prefix=self.prefix,
            extra_tokens=sent - sum(facts.consumed_tokens or 0 for facts in self.facts),
            nonce_in_prompt=self.nonce,
            reuse_rule=self._rule(),
            data_parallel_rank=None if rank is None else rank.label,
            api=self.api,
        )

    def _rule_is_missing(self) -> bool:
        """Whether nothing but the reuse rule is missing to tell what a turn could attain."""
        return any(
            turn.ideal_cached_tokens
            and turn.cached_tokens is not None
            and turn.attainable_cached_tokens is None
            and turn.loss is None
            and not turn.external_cached_tokens  # else the chunk of the store is missing
            for turn in self.facts
        )

    def _rule(self) -> ReuseRule | None:
        known = self.knowledge.learned if self.knowledge is not None else None
        return None if known is None else known.told

    def _late_notices(self, *, simulated: bool) -> set[Notice]:
        """Notices that later turns can still change."""
        scope = self.scope
        lacking = scope is not None and any(map(scope.lacks, self.usages))
        found = {
            usage_notice(self.usages, lacking=lacking),
            Notice.SIMULATED if simulated else None,
            Notice.REUSE_RULE_UNKNOWN if self._rule_is_missing() else None,
            Notice.CACHE_WEDGED if wedge_of(self.facts) is not None else None,
        }
        return {notice for notice in found if notice is not None}
