"""The facts of one turn: ideal, attainable, what the rule gives up, and the loss against it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.hits.traffic import Traffic
from exporter.analysis.loss.causes import Evidence
from exporter.analysis.reuse.cache_math import Reusable
from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
from exporter.analysis.reuse.learning import Hints, Observation
from exporter.analysis.reuse.rule import Earlier, Prefix, Rule, served
from exporter.analysis.turn_facts import TurnBasis, expected_tokens, ideal_of, turn_facts
from exporter.model.chat import Chat, Usage
from exporter.model.reuse import RuleCause, RuleLoss
from exporter.model.session import LossCause, TurnFacts

SESSION = [Prefix(p + 400, (Earlier(p, p + 150),)) for p in (1000, 1431, 1777, 2290, 2801)]
PREFIX = Prefix(1500, (Earlier(1000, 1200),))
QUIET = Traffic(foreign=0, alone=True, unreported_hits=0, hits_beyond=0)


def turn(cached, *, prompt=1500, completion=7, **times) -> Chat:
    usage = Usage(prompt, completion, cached)
    stamps = {"sent_at": 10.0, "token_times": (10.5,), "finished_at": 12.0, "usage": usage} | times
    return Chat(index=2, finish_reason="length", **stamps)


def knowledge(rule=None, hints=None):
    """Of a process that showed this rule; without one, what a plain engine's /metrics tell."""
    if rule is None:
        return EngineKnowledge(hints or Hints(16, uneven=False, speculative=False))
    known = EngineKnowledge(hints or Hints(16))
    for prefix in SESSION:
        known.observe(Observation(prefix, served(rule, prefix).least))
    assert known.learned.rule == rule
    return known


def basis(prefix=PREFIX, most=None, **evidence):
    lost = evidence and Evidence(
        **{"cached": 0, "expected": 1, "prompt": 1500, "match_unit": 16, **evidence}
    )
    shared = Reusable(prefix, most or prefix)
    return TurnBasis(first=False, knowledge=EngineKnowledge(), shared=shared, evidence=lost or None)


def of(basis: TurnBasis, known: EngineKnowledge) -> TurnBasis:
    """The basis for an engine of which this is known."""
    return replace(basis, knowledge=known)


def judged(one: Chat, basis: TurnBasis, known: EngineKnowledge) -> TurnFacts:
    return turn_facts(one, of(basis, known))


def sound(**changes):
    return {
        "prefix_caching": True,
        "restarted": False,
        "ranks": 1,
        "room": 30_000,
        "traffic": QUIET,
        **changes,
    }


def test_a_turn_has_all_facts_that_follow_from_its_usage():
    facts = judged(turn(900), basis(**sound()), knowledge())
    assert (facts.hit_ratio, facts.tokens_saved) == (0.6, 900)
    assert (facts.ideal_cached_tokens, facts.attainable_cached_tokens) == (1200, 1200)
    assert (facts.ideal_hit_ratio, facts.attainable_hit_ratio) == (0.8, 0.8)
    assert facts.efficiency_ratio == 0.75
    assert (facts.ttft_seconds, facts.latency_seconds) == (0.5, 2.0)
    assert (facts.loss.tokens, facts.loss.cause) == (300, LossCause.UNEXPLAINED)
    assert facts.rule_losses == ()


@pytest.mark.parametrize(
    ("rule", "attainable", "given_up"),
    [
        (Rule(16), 1200, ()),
        (Rule(16, 1), 1184, (RuleLoss(16, RuleCause.SPECULATIVE_DECODING),)),
        (Rule(528), 1056, (RuleLoss(144, RuleCause.UNIT),)),
        (Rule(16, answers_kept=False), 992, (RuleLoss(208, RuleCause.ANSWER_NOT_KEPT),)),
    ],
)
def test_efficiency_is_against_what_the_rule_lets_the_engine_serve(rule, attainable, given_up):
    facts = judged(turn(attainable), basis(), knowledge(rule))
    assert (facts.ideal_cached_tokens, facts.attainable_cached_tokens) == (1200, attainable)
    assert (facts.efficiency_ratio, facts.loss) == (1.0, None)
    assert facts.rule_losses == given_up


@pytest.mark.parametrize("rule", [Rule(16, 1), Rule(528), Rule(16, answers_kept=False)])
def test_a_loss_counts_beside_what_the_rule_gives_up(rule):
    attainable = served(rule, PREFIX).least
    facts = judged(turn(320), basis(**sound()), knowledge(rule))
    assert facts.loss.tokens == attainable - 320
    assert sum(part.tokens for part in facts.rule_losses) == 1200 - attainable
    assert facts.efficiency_ratio == 320 / attainable


def test_while_the_rule_is_unknown_nothing_is_attainable_and_nothing_is_lost():
    facts = judged(turn(992), basis(**sound()), knowledge(hints=Hints(16)))
    assert (facts.ideal_cached_tokens, facts.ideal_hit_ratio) == (1200, 0.8)
    assert facts.attainable_cached_tokens is facts.efficiency_ratio is facts.loss is None
    assert facts.rule_losses == ()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"prefix_caching": False}, LossCause.DISABLED),
        ({"restarted": True}, LossCause.RESTART),
        ({"several": "two engines"}, LossCause.MIXED),
        ({"traffic": Traffic(50_000, alone=False, unreported_hits=None)}, LossCause.EVICTED),
    ],
)
def test_a_loss_that_no_rule_explains_is_named_also_before_the_rule_is_known(changes, cause):
    facts = judged(turn(0), basis(**sound(**changes)), knowledge(hints=Hints(16)))
    assert (facts.loss.cause, facts.loss.tokens) == (cause, 1200)
    assert facts.attainable_cached_tokens is None


def test_the_loss_that_was_found_while_the_rule_was_unknown_is_measured_again_by_the_rule():
    evidence = basis(**sound(expected=1200, cached=320))
    before = judged(turn(320), evidence, knowledge(hints=Hints(16)))
    after = judged(turn(320), evidence, knowledge(Rule(16, 1)))
    assert before.loss is None
    assert after.loss.tokens == 1184 - 320


def test_an_unknown_cached_count_leaves_everything_unknown_that_needs_it():
    facts = judged(turn(None), basis(**sound()), knowledge())
    assert (facts.hit_ratio, facts.tokens_saved, facts.efficiency_ratio) == (None, None, None)
    assert facts.loss is None
    assert (facts.ideal_hit_ratio, facts.attainable_cached_tokens) == (0.8, 1200)


def test_a_turn_without_usage_still_has_its_times():
    facts = judged(turn(0, usage=None, token_times=()), basis(), knowledge())
    assert (facts.prompt_tokens, facts.hit_ratio, facts.ideal_hit_ratio) == (None, None, None)
    assert (facts.ttft_seconds, facts.latency_seconds) == (None, 2.0)


def test_a_first_turn_has_nothing_to_reuse_on_any_engine():
    first = TurnBasis(first=True, knowledge=EngineKnowledge())
    for known in (knowledge(), knowledge(hints=Hints()), knowledge(Rule(528))):
        facts = judged(turn(0), first, known)
        assert (facts.ideal_cached_tokens, facts.attainable_cached_tokens) == (0, 0)
        assert facts.efficiency_ratio is None


def test_token_ids_that_are_unknown_leave_ideal_and_attainable_unknown():
    facts = judged(turn(992), TurnBasis(first=False, knowledge=EngineKnowledge()), knowledge())
    assert facts.ideal_cached_tokens is facts.attainable_cached_tokens is None
    assert facts.hit_ratio is not None


def test_an_answer_with_unknown_ids_makes_attainable_unknown_only_if_it_may_change_it():
    """The prompt shares 1000 to 1200 tokens. The boundary of its prompt does not move."""
    shared = {"prefix": Prefix(1500, (Earlier(1000, 1000),)), "most": PREFIX}
    kept = judged(turn(992), basis(**shared), knowledge())
    assert kept.ideal_cached_tokens is kept.attainable_cached_tokens is None
    without = Rule(16, answers_kept=False)
    expected = expected_tokens(of(basis(**shared), knowledge(without)))
    assert expected == 992


def test_a_hit_beyond_the_ideal_makes_the_ideal_unknown_and_not_the_efficiency_above_one():
    facts = judged(turn(1216), basis(**sound()), knowledge())
    assert (facts.ideal_cached_tokens, facts.attainable_cached_tokens) == (None, None)
    assert facts.efficiency_ratio is None
    assert facts.hit_ratio == 1216 / 1500
    assert facts.loss is None


def test_a_hit_beyond_what_the_rule_serves_is_not_judged_by_the_rule():
    facts = judged(turn(1200), basis(), knowledge(Rule(528)))
    assert facts.ideal_cached_tokens == 1200
    assert facts.attainable_cached_tokens is facts.efficiency_ratio is None


def test_a_rule_with_two_bounds_is_attained_between_them_and_lost_below():
    hints = Hints(16, speculative=True, draft_tokens=7)
    known = EngineKnowledge(hints)
    near = [Prefix(p + 400, (Earlier(p, p + 150),)) for p in (1000, 1434, 1783, 2292, 2801)]
    for prefix in near:
        known.observe(Observation(prefix, served(Rule(16, lookahead_tokens=8), prefix).least))
    assert known.learned.rule == Rule(16, lookahead_tokens=8)
    for cached in (1184, 1200):
        facts = judged(turn(cached), basis(), known)
        assert (facts.attainable_cached_tokens, facts.efficiency_ratio) == (cached, 1.0)
    facts = judged(turn(1168), basis(**sound()), known)
    assert (facts.attainable_cached_tokens, facts.loss.tokens) == (1184, 16)
    facts = judged(turn(None), basis(), known)
    assert facts.attainable_cached_tokens is None, "which of the two is known only with the hit"


def test_usage_that_hides_hits_makes_cached_tokens_unknown():
    hidden = Traffic(0, alone=True, unreported_hits=1200, hits_beyond=1200)
    facts = judged(turn(0), basis(**sound(traffic=hidden)), knowledge())
    assert facts.loss.cause is LossCause.UNREPORTED
    assert facts.cached_tokens is facts.hit_ratio is facts.efficiency_ratio is None


@pytest.mark.parametrize(
    ("rule", "hints", "expected"),
    [
        (None, None, 1200),
        (None, Hints(16), 1200),  # the ideal while the rule is unknown
        (None, Hints(), None),
        (Rule(528), None, 1056),
        (Rule(16, answers_kept=False), None, 992),
    ],
)
def test_a_turn_is_expected_to_hit_what_its_rule_serves_at_least(rule, hints, expected):
    assert expected_tokens(of(basis(), knowledge(rule, hints))) == expected


def test_the_ideal_is_in_units_of_the_label_unless_hits_disprove_it():
    assert ideal_of(of(basis(), knowledge(Rule(528)))) == 1200
    assert ideal_of(of(basis(), knowledge(Rule(16), Hints(528)))) == 1200
    assert ideal_of(of(basis(), EngineKnowledge(Hints(528)))) == 1056


@given(
    prompt=st.integers(2, 5000),
    data=st.data(),
    first=st.none() | st.floats(0, 5),
    rule=st.sampled_from([None, Rule(16), Rule(16, 1), Rule(528), Rule(16, answers_kept=False)]),
)
def test_ratios_stay_between_zero_and_one_and_unknown_stays_unknown(prompt, data, first, rule):
    cached = data.draw(st.none() | st.integers(0, prompt - 1))
    before = data.draw(st.integers(1, prompt))
    prefix = Prefix(prompt, (Earlier(before, data.draw(st.integers(0, prompt))),))
    times = () if first is None else (1 + first,)
    one = turn(cached, prompt=prompt, sent_at=1.0, token_times=times)
    facts = judged(one, basis(prefix, **sound(prompt=prompt)), knowledge(rule))
    ratios = (facts.hit_ratio, facts.ideal_hit_ratio, facts.attainable_hit_ratio)
    for ratio in (*ratios, facts.efficiency_ratio):
        assert ratio is None or 0 <= ratio <= 1
    assert (facts.hit_ratio is None) == (cached is None)
    if facts.efficiency_ratio is not None:
        lost = facts.loss.tokens if facts.loss else 0
        assert facts.attainable_cached_tokens == cached + lost
        given_up = sum(part.tokens for part in facts.rule_losses)
        assert facts.ideal_cached_tokens == facts.attainable_cached_tokens + given_up


# Turns that a store filled up. Of PREFIX a store with chunks of 256 has 768 tokens.


def filled(cached, external, **more) -> Chat:
    usage = Usage(1500, 7, cached, store=True, external_tokens=external)
    return replace(turn(cached, **more), usage=usage)


def with_chunk(rule=None, *ends):
    known = knowledge(rule)
    for end in ends or (256, 512, 1280):
        known.observe_store(end)
    return known


def test_what_is_missing_to_the_end_of_a_stores_chunk_is_no_loss():
    pressed = Traffic(foreign=90_000, alone=False, unreported_hits=0, hits_beyond=0)
    facts = judged(filled(768, 768), basis(**sound(traffic=pressed)), with_chunk())
    assert facts.loss is None
    assert (facts.attainable_cached_tokens, facts.efficiency_ratio) == (768, 1.0)
    assert facts.rule_losses == (RuleLoss(432, RuleCause.STORE_CHUNK),)
    assert facts.external_cached_tokens == 768


def test_what_a_store_could_have_had_as_well_is_a_loss():
    pressed = Traffic(foreign=90_000, alone=False, unreported_hits=0, hits_beyond=0)
    facts = judged(filled(512, 256), basis(**sound(traffic=pressed)), with_chunk())
    assert (facts.attainable_cached_tokens, facts.loss.tokens) == (1200, 688)
    assert facts.loss.cause is LossCause.EVICTED
    assert facts.rule_losses == ()


def test_until_the_stores_chunk_is_clear_such_a_turn_is_not_judged():
    facts = judged(filled(768, 768), basis(**sound()), knowledge())
    assert (facts.ideal_cached_tokens, facts.attainable_cached_tokens) == (1200, None)
    assert facts.loss is None


def test_a_turn_that_the_store_had_no_part_in_is_judged_by_the_rule_alone():
    facts = judged(filled(900, 0), basis(**sound()), with_chunk())
    assert (facts.attainable_cached_tokens, facts.loss.tokens) == (1200, 300)
    assert facts.external_cached_tokens == 0


def test_a_store_can_serve_what_the_rule_of_the_own_cache_gives_up():
    facts = judged(filled(1200, 16), basis(**sound()), with_chunk(Rule(16, 1), 16, 32, 48))
    assert (facts.attainable_cached_tokens, facts.rule_losses, facts.loss) == (1200, (), None)


@given(
    rule=st.sampled_from([None, Rule(16, 1), Rule(528), Rule(16, answers_kept=False)]),
    cached=st.integers(0, 1500),
    external=st.integers(0, 1500),
    chunk=st.sampled_from([16, 100, 256, 2048]),
)
def test_with_a_store_the_parts_of_a_turn_still_add_up(rule, cached, external, chunk):
    external = min(cached, external)
    known = with_chunk(rule, chunk, 2 * chunk, 3 * chunk)
    facts = judged(filled(cached, external), basis(**sound()), known)
    ideal, attainable = facts.ideal_cached_tokens, facts.attainable_cached_tokens
    if attainable is None:
        return
    given_up = sum(part.tokens for part in facts.rule_losses)
    assert ideal - attainable == given_up
    assert attainable - cached == (facts.loss.tokens if facts.loss else 0)
    if not external:
        assert RuleCause.STORE_CHUNK not in {part.cause for part in facts.rule_losses}


def test_the_chunk_of_a_store_is_known_from_three_hits():
    known = EngineKnowledge()
    for end, chunk in ((1024, None), (1536, None), (1024, None), (2304, 256)):
        known.observe_store(end)
        assert known.store_chunk == chunk
    for end in range(256, 256 * 100, 256):
        known.observe_store(end)
    assert known.store_chunk == 256
