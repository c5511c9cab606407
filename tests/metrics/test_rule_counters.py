"""For any reuse rule and any losses, the counters add up as docs/loss-causes.md says."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.analysis.loss.causes import Evidence
from exporter.analysis.reuse.cache_math import Reusable
from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
from exporter.analysis.reuse.learning import Hints, Observation
from exporter.analysis.reuse.rule import Earlier, Rule, prefix_of, served
from exporter.analysis.turn_facts import TurnBasis, expected_tokens, turn_facts
from exporter.metrics.state.probe_sums import ProbeSums
from exporter.model.chat import Chat, Usage


@dataclass
class Engine:
    """An engine with some rule, that loses a part of some hits."""

    random: Random
    rule: Rule = field(init=False)
    knowledge: EngineKnowledge = field(init=False)

    def __post_init__(self) -> None:
        choose = self.random.choice
        block = choose([4, 16, 32])
        self.rule = Rule(block * choose([1, 1, 2, 16, 33]), choose([0, 1]), choose([True, False]))
        uneven = not self.rule.answers_kept or self.rule.unit_tokens != block
        self.knowledge = EngineKnowledge(
            Hints(
                block,
                uneven=choose([None, uneven]),
                speculative=choose([None, self.rule.dropped_blocks > 0]),
            )
        )

    def session(self):
        """Its turns, judged as a session judges them: settled by the rule that its end knows."""
        played, bases = [], []
        earlier: list[Earlier] = []
        prompt = self.random.randint(100, 2500)
        for index in range(1, 9):
            prefix, answer = prefix_of(prompt, earlier), self.random.choice([32, 48, 240, 400])
            cached, lost = self._hit(prefix)
            played.append(
                Chat(0.0, (0.1,), 1.0, Usage(prompt, answer, cached), "stop", index=index)
            )
            bases.append(
                self._judged(
                    TurnBasis(not earlier, self.knowledge, Reusable(prefix, prefix)), cached
                )
            )
            if cached:
                self.knowledge.observe(Observation(prefix, cached, lost or self._disturbed()))
            earlier.append(Earlier(prompt, prompt + answer - 1))
            prompt += answer + self.random.randint(20, 300)
        return [turn_facts(*both) for both in zip(played, bases, strict=True)]

    def _hit(self, prefix) -> tuple[int, bool]:
        whole = served(self.rule, prefix).least
        if self.random.random() >= 0.2:
            return whole, False
        units = whole // self.rule.unit_tokens
        return self.random.randint(0, units) * self.rule.unit_tokens, True

    def _judged(self, basis: TurnBasis, cached: int) -> TurnBasis:
        expected = expected_tokens(basis)
        if not expected or cached >= expected:
            return basis
        unit = self.knowledge.unit or 1
        prompt = basis.shared.least.prompt
        evidence = Evidence(
            cached, expected, prompt, unit, prefix_caching=True, restarted=False, ranks=1
        )
        return TurnBasis(basis.first, self.knowledge, basis.shared, evidence)

    def _disturbed(self) -> bool:
        return self.random.random() < 0.2


@settings(deadline=None)
@example(871)  # hits of later turns show that a turn lost tokens
@given(st.integers(0, 10_000_000))
def test_the_counters_add_up_for_any_rule_and_any_losses(seed):
    engine, sums, cached = Engine(Random(seed)), ProbeSums(), 0
    for _ in range(3):
        turns = engine.session()
        sums.add(turns)
        unknown = any(
            turn.cached_tokens and turn.attainable_cached_tokens is None and turn.loss is None
            for turn in turns
        )
        cached += sum(
            turn.cached_tokens
            for turn in turns
            if turn.attainable_cached_tokens is not None or (turn.loss and not unknown)
        )
    ideal, attainable = sums.ideal_cached_tokens or 0, sums.attainable_cached_tokens or 0
    assert ideal - attainable == sum(sums.rule_lost_tokens.values())
    assert attainable - cached == sum(sums.lost_tokens.values())
