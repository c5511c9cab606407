"""What one engine process showed: its rule stays, losses do not become a rule, a restart forgets."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reuse_sessions import (
    also_explaining,
    facts_of,
    hints_for,
    hits_of,
    learned_from,
    rules,
    sessions,
)

from exporter.analysis.reuse.engine_knowledge import EngineKnowledge
from exporter.analysis.reuse.learning import Hints, Observation
from exporter.analysis.reuse.rule import Earlier, Prefix, Rule, served

SESSION = [
    Prefix(p + 400, (Earlier(p, p + 150),)) for p in (1000, 1431, 1777, 2290, 2801, 3333, 3999)
]


def hits(rule):
    return [Observation(prefix, served(rule, prefix).least) for prefix in SESSION]


def short_by(tokens, seen, *, disturbed=False):
    return replace(seen, cached=seen.cached - tokens, disturbed=disturbed)


@given(labelled=rules(), data=st.data())
def test_one_session_of_a_sound_engine_gives_a_rule_that_explains_every_turn(labelled, data):
    label, rule = labelled
    hints = data.draw(hints_for(label, rule))
    seen = data.draw(hits_of(rule, data.draw(sessions(rule.unit_tokens))))
    knowledge = learned_from(seen, hints)
    if knowledge.learned is None:
        assert sum(one.cached > 0 for one in seen) < 3
        return
    for one in seen:
        facts = facts_of(one, knowledge)
        assert facts.attainable_cached_tokens == one.cached
        assert facts.attainable_cached_tokens <= facts.ideal_cached_tokens
        given_up = sum(part.tokens for part in facts.rule_losses)
        assert given_up == facts.ideal_cached_tokens - one.cached
        assert all(part.tokens > 0 for part in facts.rule_losses)
    if not also_explaining(rule, label, seen):
        assert (knowledge.learned.rule, knowledge.learned.others) == (rule, ())


@given(labelled=rules(), data=st.data(), seed=st.randoms())
def test_the_order_of_undisturbed_sessions_does_not_matter(labelled, data, seed):
    label, rule = labelled
    hints = data.draw(hints_for(label, rule))
    played = [
        data.draw(hits_of(rule, data.draw(sessions(rule.unit_tokens, (5, 8))))) for _ in range(3)
    ]
    shuffled = list(played)
    seed.shuffle(shuffled)
    one, other = (
        learned_from([hit for session in order for hit in session], hints)
        for order in (played, shuffled)
    )
    assert one.learned == other.learned


@given(labelled=rules(), data=st.data())
def test_the_losses_of_a_sick_engine_never_change_a_rule_that_sound_hits_told(labelled, data):
    """Evictions of the tail, half of the units, all: whether or not they count as disturbed."""
    label, rule = labelled
    hints = data.draw(hints_for(label, rule))
    played = data.draw(hits_of(rule, data.draw(sessions(rule.unit_tokens, (9, 12)))))
    sound, later = played[:6], played[6:]
    assume(sum(one.cached > 0 for one in sound) >= 3)
    assume(not also_explaining(rule, label, sound))
    knowledge = learned_from(sound, hints)
    for one in later:
        units = served(rule, one.prefix).least // rule.unit_tokens
        left = data.draw(st.sampled_from([0, units // 2, max(0, units - 1), units]))
        disturbed = data.draw(st.booleans())
        lost = Observation(one.prefix, left * rule.unit_tokens, disturbed)
        knowledge.observe(lost)
        assert (knowledge.learned.rule, knowledge.learned.others) == (rule, ())
        facts = facts_of(lost, knowledge)
        assert facts.attainable_cached_tokens == units * rule.unit_tokens
    for one in sound:
        assert facts_of(one, knowledge).attainable_cached_tokens == one.cached


@pytest.mark.parametrize("hints", [Hints(16), Hints(16, uneven=False, speculative=False)])
@pytest.mark.parametrize("disturbed", [True, False])
@pytest.mark.parametrize("left", [0, 0.5, 0.9])
def test_an_engine_that_is_sick_from_its_first_turn_blames_no_sound_turn(hints, disturbed, left):
    sick = [
        Observation(one.prefix, int(one.cached * left) // 16 * 16, disturbed)
        for one in hits(Rule(16))
    ]
    knowledge = learned_from(sick, hints)
    if hints.plain:
        lost = [facts_of(one, knowledge).attainable_cached_tokens - one.cached for one in sick]
        assert all(tokens > 0 for tokens in lost), "none of the losses is hidden"
    for one in [*hits(Rule(16)), *hits(Rule(16))]:
        knowledge.observe(one)
        assert facts_of(one, knowledge).attainable_cached_tokens in (None, one.cached)
    assert knowledge.learned.rule == Rule(16)


def test_one_loss_that_another_rule_explains_does_not_stay_a_rule():
    """No sound hit of this session tells whether answers are kept."""
    prefixes = [Prefix(p + 400, (Earlier(p, p + 20),)) for p in (1000, 1330, 1700, 2330, 2850)]
    sound = [Observation(one, served(Rule(256), one).least) for one in prefixes]
    telling = Observation(Prefix(3500, (Earlier(3000, 3200),)), 3072)
    lost = replace(telling, cached=2816)
    knowledge = learned_from([*sound, lost], Hints(256))
    assert knowledge.learned.rule == Rule(256, answers_kept=False)
    knowledge.observe(telling)
    assert (knowledge.learned.rule, knowledge.learned.others) == (Rule(256), ())
    facts = facts_of(lost, knowledge)
    assert facts.attainable_cached_tokens - facts.cached_tokens == 256


@pytest.mark.parametrize("rule", [Rule(16, 1), Rule(528), Rule(16, answers_kept=False)])
def test_counters_that_are_hidden_delay_the_rule_by_three_short_hits(rule):
    knowledge = EngineKnowledge(Hints(16, uneven=False, speculative=False))
    known = []
    for one in hits(rule):
        knowledge.observe(one)
        known.append(knowledge.learned.rule)
    assert known[0] == Rule(16)
    assert known[-1] == rule
    assert all(
        facts_of(one, knowledge).attainable_cached_tokens == one.cached for one in hits(rule)
    )


def test_a_hit_above_the_rule_disproves_it():
    knowledge = learned_from(hits(Rule(16, 1))[:3], Hints(16))
    assert knowledge.learned.rule == Rule(16, 1)
    knowledge.observe(hits(Rule(16))[3])
    assert knowledge.learned is None
    for one in [*hits(Rule(16)), hits(Rule(16))[0]]:
        knowledge.observe(one)
    assert knowledge.learned.rule == Rule(16), "the latest hits alone tell the rule"


def test_a_hit_on_more_than_was_sent_before_shows_no_rule():
    """As where salts do nothing, or an external store has the prompt."""
    knowledge = EngineKnowledge(Hints(16, uneven=False, speculative=False))
    for prefix in SESSION:
        knowledge.observe(Observation(prefix, prefix.prompt - 16))
    assert knowledge.learned.rule == Rule(16)
    assert knowledge.remembered(1.0).hits == ()


def test_a_new_process_knows_nothing_of_the_one_before():
    before = learned_from(hits(Rule(528)), Hints(16))
    assert (before.unit, before.label_is_wrong) == (528, True)
    after = EngineKnowledge(Hints(16))
    assert (after.learned, after.unit, after.label_is_wrong) == (None, 16, False)
    assert after.remembered(1.0).hits == ()


def test_what_was_seen_gives_the_same_rule_again():
    first = learned_from([*hits(Rule(16))[:4], short_by(160, hits(Rule(16))[4])], Hints(16))
    again = learned_from(first.remembered(1.0).hits, Hints(16))
    assert again.learned == first.learned
    assert again.remembered(1.0).hits == first.remembered(1.0).hits


def test_hints_that_come_later_settle_what_hits_left_open():
    knowledge = learned_from(hits(Rule(16))[:1], Hints())
    assert knowledge.learned is None
    knowledge.hints = Hints(16, uneven=False, speculative=False)
    assert knowledge.learned.rule == Rule(16)


def test_the_unit_of_lengths_is_the_label_until_hits_settle_it():
    knowledge = EngineKnowledge(Hints(16))
    seen = hits(Rule(528))
    knowledge.observe(seen[0])
    assert (knowledge.learned, knowledge.unit, knowledge.label_is_wrong) == (None, 16, False)
    for one in seen[1:]:
        knowledge.observe(one)
    assert (knowledge.unit, knowledge.block, knowledge.label_is_wrong) == (528, 16, True)


def test_a_label_that_hits_are_no_multiples_of_is_not_the_unit_of_the_ideal():
    knowledge = EngineKnowledge(Hints(528))
    seen = hits(Rule(16))
    knowledge.observe(seen[0])
    assert (knowledge.block, knowledge.label_is_wrong) == (None, True)
    for one in seen[1:]:
        knowledge.observe(one)
    assert (knowledge.block, knowledge.unit) == (16, 16)


@pytest.mark.parametrize(
    ("hints", "seen", "hit"),
    [
        (Hints(), [], None),
        (Hints(16), [], None),
        (Hints(16, uneven=False, speculative=False), [], 992),
        (Hints(16), hits(Rule(528)), 528),
        (Hints(16), hits(Rule(16, 1)), 976),
    ],
)
def test_what_a_repeat_must_hit_is_by_the_rule(hints, seen, hit):
    assert learned_from(seen, hints).repeat_hit(1000) == hit


UNEVEN = Hints(16, uneven=True, speculative=False)
OF_528 = [Prefix(p + 150, (Earlier(p, p + 31),)) for p in range(2000, 6000, 211)]


def hit_of(prefix, cached=None, *, disturbed=False):
    rule = Rule(528)
    return Observation(prefix, served(rule, prefix).most if cached is None else cached, disturbed)


def test_hits_that_others_may_have_cut_short_show_no_rule():
    knowledge = EngineKnowledge(UNEVEN)
    for prefix in OF_528:
        knowledge.observe(hit_of(prefix, disturbed=True))
    assert knowledge.learned is None


def test_evictions_never_push_out_the_hits_that_showed_the_rule():
    knowledge = EngineKnowledge(UNEVEN)
    for prefix in OF_528[:8]:
        knowledge.observe(hit_of(prefix))
    before = knowledge.learned
    assert before is not None
    assert before.told.unit_tokens == 528
    for _ in range(10):
        for prefix in OF_528:
            knowledge.observe(hit_of(prefix, 528, disturbed=True))
    assert knowledge.learned.rule == before.rule


def test_what_a_hit_cut_short_ruled_out_stays_so_over_the_next_session():
    knowledge = EngineKnowledge(Hints(16, speculative=True, draft_tokens=1))
    for known, cached in ((352, 320), (3424, 3392), (288, 256)):  # units of 64, or of 32 less one
        knowledge.observe(Observation(Prefix(known + 50, (Earlier(known, known),)), cached))
    assert knowledge.learned.told.dropped_blocks is None
    longer = Prefix(1610, (Earlier(1560, 1560),))  # 32 less one would serve 1504
    knowledge.observe(Observation(longer, 1536, disturbed=True))
    assert knowledge.learned.told.dropped_blocks == 0
    for _ in range(16):
        knowledge.observe(Observation(longer, 64, disturbed=True))
    assert knowledge.learned.told.dropped_blocks == 0


def test_losses_of_a_sick_process_are_not_recalled_as_its_rule():
    knowledge = EngineKnowledge(Hints(16, uneven=False, speculative=False))
    sound = [Prefix(p + 150, (Earlier(p, p + 31),)) for p in range(3200, 4400, 157)]
    for prefix in sound:
        knowledge.observe(Observation(prefix, served(Rule(16), prefix).most))
    for prefix in sound[:2]:
        knowledge.observe(Observation(prefix, 3200))
    again = EngineKnowledge(Hints(16, uneven=False, speculative=False))
    again.recall(knowledge.remembered(1.0))
    assert again.learned.rule == Rule(16)


def test_a_hit_that_is_no_multiple_of_the_label_disproves_it_also_when_others_cut_it_short():
    knowledge = EngineKnowledge(Hints(512, uneven=True))
    knowledge.observe(hit_of(OF_528[0], 528, disturbed=True))
    assert knowledge.label_is_wrong
    assert knowledge.block is None


@st.composite
def disturbed_sessions(draw, rule):
    """Sessions in which an eviction, another rank or a restart cut some of the hits short.

    What was cut is disturbed. So is any other hit, if something else may have cut it.
    """
    seen = []
    for _ in range(draw(st.integers(1, 3))):
        for one in draw(hits_of(rule, draw(sessions(rule.unit_tokens)))):
            units = one.cached // rule.unit_tokens
            left = draw(st.none() | st.integers(0, max(0, units - 1)))
            if left is None or units == 0:
                seen.append(replace(one, disturbed=draw(st.booleans())))
            else:
                seen.append(Observation(one.prefix, left * rule.unit_tokens, disturbed=True))
    return draw(st.permutations(seen)) if draw(st.booleans()) else seen


@given(labelled=rules(), data=st.data())
def test_hits_that_were_cut_short_give_no_wrong_unit_and_no_loss_is_called_the_rules(
    labelled, data
):
    label, rule = labelled
    hints = data.draw(hints_for(label, rule))
    seen = data.draw(disturbed_sessions(rule))
    knowledge, before = EngineKnowledge(hints), []
    for one in seen:
        knowledge.observe(one)
        before.append(one)
        if knowledge.learned is None:
            continue
        possible = [rule, *also_explaining(rule, label, before)]  # these explain what was sound
        units = {None, *(one.unit_tokens for one in possible)}
        assert knowledge.learned.told.unit_tokens in units
        for past in before:
            facts = facts_of(past, knowledge)
            if facts.attainable_cached_tokens is None:
                continue
            right = min(served(one, past.prefix).least for one in possible)
            assert facts.attainable_cached_tokens >= right
            given_up = sum(part.tokens for part in facts.rule_losses)
            assert given_up <= facts.ideal_cached_tokens - right


@given(labelled=rules(), data=st.data())
def test_without_three_sound_hits_disturbed_ones_show_no_rule(labelled, data):
    label, rule = labelled
    hints = data.draw(hints_for(label, rule))
    assume(not hints.plain)
    knowledge = EngineKnowledge(hints)
    sound = 0
    for one in data.draw(disturbed_sessions(rule)):
        sound += one.cached > 0 and not one.disturbed
        if sound >= 3:
            break
        knowledge.observe(one)
        assert knowledge.learned is None
        assert facts_of(one, knowledge).rule_losses == ()


@given(data=st.data())
def test_without_the_length_of_a_draft_a_lost_last_block_is_never_a_look_ahead(data):
    """A look-ahead and an engine that loses the last block of some turns look the same."""
    rule = Rule(16, lookahead_tokens=data.draw(st.sampled_from([2, 4, 8])))
    played = data.draw(st.lists(sessions(16), min_size=1, max_size=3))
    seen = [hit for one in played for hit in data.draw(hits_of(rule, one))]
    knowledge = EngineKnowledge(Hints(16, uneven=False))
    for one in seen:
        knowledge.observe(one)
        known = knowledge.learned
        assert known is None or known.told.lookahead_tokens == 0
