"""What the words say of an engine's reuse rule: in the verdict, and in the findings of `check`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from publish_records import EAGLE, EAGLE_TURNS, TURNS, engine_view, session, turn

from exporter.analysis.isolation import IsolationTest
from exporter.analysis.session_totals import session_totals
from exporter.model.reuse import ReuseRule, RuleCause, RuleLoss
from exporter.model.session import LossCause
from exporter.wording.findings.engine import of_match_unit, of_reuse_rule
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_wedge
from exporter.wording.findings.session import of_engines, of_second_turn
from exporter.wording.notices import LOSS_ADVICE
from exporter.wording.reuse_rules import RULE_ADVICE, given_up_in_words, rule_in_words
from exporter.wording.verdict import verdict

WINDOW = ReuseRule(unit_tokens=32, dropped_blocks=0, answers_kept=False, lookahead_tokens=0)
LOOKAHEAD = ReuseRule(unit_tokens=32, dropped_blocks=0, answers_kept=True, lookahead_tokens=4)
FLAGS = {
    RuleCause.SPECULATIVE_DECODING: "disable_eagle_block_drop",
    RuleCause.ANSWER_NOT_KEPT: "--prefix-cache-retention-interval",
    RuleCause.UNIT: "--prefix-match-unit",
    RuleCause.STORE_CHUNK: "chunk_size of LMCache",
}


def test_the_verdict_says_what_the_rule_gives_up_with_its_flag_and_its_cost():
    assert verdict(session(*EAGLE_TURNS, reuse_rule=EAGLE)) == (
        "The cache served 2,208 of 3,750 prompt tokens (58.9 %), all that the engine's reuse rule "
        "allows. EAGLE or MTP gives up 32 tokens a turn, 1.7 % of this session's prompt tokens. "
        '"disable_eagle_block_drop": true in --speculative-config keeps the last block of a hit. '
        "The engine may then accept fewer draft tokens (experimental, in vLLM 0.31 and 0.32)."
    )


def test_what_the_rule_gives_up_comes_after_the_advice_about_a_loss():
    lost = turn(3, 1500, 0, 1280, gives_up=32, cause=LossCause.EVICTED)
    said = verdict(session(*EAGLE_TURNS[:2], lost, reuse_rule=EAGLE))
    assert "and lost 1,248 that it could have served: evicted in turn 3" in said
    assert said.index(LOSS_ADVICE[LossCause.EVICTED]) < said.index("EAGLE or MTP gives up")
    assert "Nothing to change" not in said


@pytest.mark.parametrize("cause", RuleCause)
def test_each_part_of_a_rule_has_a_sentence_with_its_flag(cause):
    turns = (TURNS[0], turn(2, 1250, 960, 992, gives_up=32, rule=cause))
    (sentence,) = given_up_in_words(session_totals(turns), replace(EAGLE, dropped_blocks=1))
    assert "gives up 32 tokens a turn, 1.4 % of this session's prompt tokens. " in sentence
    assert FLAGS[cause] in sentence
    assert sentence.endswith(RULE_ADVICE[cause])


def test_the_largest_part_of_a_rule_is_named_first():
    both = (RuleLoss(32, RuleCause.SPECULATIVE_DECODING), RuleLoss(160, RuleCause.UNIT))
    turns = (TURNS[0], replace(turn(2, 1250, 800, 992, gives_up=192), rule_losses=both))
    first, second = given_up_in_words(session_totals(turns), EAGLE)
    assert "larger than the cache block gives up 160 tokens a turn" in first
    assert "EAGLE or MTP gives up 32 tokens a turn" in second


def test_an_amount_that_differs_from_turn_to_turn_is_about_its_mean():
    turns = (*EAGLE_TURNS[:2], turn(3, 1500, 1279, 1280, gives_up=1))
    assert "gives up about 16 tokens a turn" in given_up_in_words(session_totals(turns), EAGLE)[0]


def test_if_a_turn_is_unknown_the_amount_is_a_least_one_and_not_one_of_a_turn():
    unknown = replace(EAGLE_TURNS[2], attainable_cached_tokens=None, rule_losses=())
    totals = session_totals((*EAGLE_TURNS[:2], unknown))
    assert "gives up at least 32 tokens of this session" in given_up_in_words(totals, EAGLE)[0]
    assert "how many it could have served is unknown" in verdict(
        session(*EAGLE_TURNS[:2], unknown, reuse_rule=EAGLE)
    )


def test_an_engine_that_only_looks_ahead_gets_no_flag_that_does_not_help():
    (sentence,) = given_up_in_words(session_totals(EAGLE_TURNS), LOOKAHEAD)
    assert sentence.startswith("Speculative decoding gives up 32 tokens a turn")
    assert "No flag changes this" in sentence
    assert "disable_eagle_block_drop" not in sentence


def test_an_engine_that_gives_up_nothing_has_nothing_to_change():
    assert verdict(session(*TURNS[:2])).endswith("all that it could have. Nothing to change.")
    assert given_up_in_words(session_totals(TURNS), EAGLE) == []


def test_the_second_turn_passes_by_the_rule_and_says_what_the_rule_gives_up():
    found = of_second_turn(session(*EAGLE_TURNS, reuse_rule=EAGLE))
    assert found.verdict is Verdict.PASS
    assert found.evidence == (
        "2,208 of 2,750 prompt tokens of turns 2 to 3 came from cache, all that the engine's reuse "
        "rule allows (efficiency 100 %). EAGLE or MTP gives up 32 tokens a turn, 1.7 % of this "
        "session's prompt tokens"
    )
    assert found.remedy is None


def test_a_loss_fails_the_second_turn_beside_the_rule():
    lost = turn(3, 1500, 0, 1280, gives_up=32, cause=LossCause.EVICTED)
    found = of_second_turn(session(*EAGLE_TURNS[:2], lost, reuse_rule=EAGLE))
    assert found.verdict is Verdict.FAIL
    assert "lost: 1,248 evicted" in found.evidence
    assert found.evidence.endswith("EAGLE or MTP gives up 32 tokens a turn, 1.7 % of this "
                                   "session's prompt tokens")  # fmt: skip


def test_a_rule_that_allows_no_hit_is_neither_a_pass_nor_a_failure():
    none = turn(2, 1250, 0, 992, gives_up=992, rule=RuleCause.UNIT)
    found = of_second_turn(session(TURNS[0], none, reuse_rule=EAGLE))
    assert found.verdict is Verdict.UNKNOWN
    assert "by the reuse rule none could have" in found.evidence
    assert "gives up 992 tokens a turn" in found.evidence
    assert "could have served none" in verdict(session(TURNS[0], none, reuse_rule=EAGLE))


def test_with_an_unknown_rule_the_second_turn_does_not_say_that_all_was_served():
    turns = [replace(one, attainable_cached_tokens=None, rule_losses=()) for one in EAGLE_TURNS[1:]]
    found = of_second_turn(session(TURNS[0], *turns))
    assert found.verdict is Verdict.PASS
    assert "what could have is unknown" in found.evidence
    assert "efficiency" not in found.evidence


def test_with_an_unknown_rule_a_turn_that_hits_less_than_one_before_is_no_pass():
    less = replace(turn(3, 1500, 0, 0), ideal_cached_tokens=1280, attainable_cached_tokens=None)
    result = session(*EAGLE_TURNS[:2], less)
    assert of_second_turn(result).verdict is Verdict.UNKNOWN
    assert of_engines(result).verdict is Verdict.PASS
    assert "turn 3 hit 0 of 1,500 tokens" in of_second_turn(result).evidence


@pytest.mark.parametrize(
    ("hit", "said"),
    [(1792, "hit 1,792 of 1,792 possible"), (1808, "hit 1,808"), (16, "hit 16 of 1,792")],
)
def test_a_repeat_that_hits_more_than_the_rule_promises_is_not_set_against_less(hit, said):
    repeated = IsolationTest(
        prompt_tokens=1813, first_cached=0, same_salt_cached=hit, other_salt_cached=0,
        match_unit=16, possible=1792,
    )  # fmt: skip
    found = of_wedge(repeated)
    assert found.verdict is Verdict.PASS
    assert said in found.evidence
    assert "1,808 of" not in found.evidence


@pytest.mark.parametrize(
    ("rule", "words", "flag"),
    [
        (EAGLE, "the last 32 tokens of each hit are dropped, as with EAGLE or MTP",
         RULE_ADVICE[RuleCause.SPECULATIVE_DECODING]),
        (WINDOW, "the blocks of answers are not kept, as with sliding windows",
         RULE_ADVICE[RuleCause.ANSWER_NOT_KEPT]),
        (LOOKAHEAD, "up to 4 tokens at the end of a prefix may not count", "No flag changes this"),
    ],
)  # fmt: skip
def test_check_shows_the_rule_and_the_flag_that_changes_it(rule, words, flag):
    found = of_reuse_rule(rule)
    assert found.verdict is Verdict.PASS
    assert words in found.evidence
    assert flag in found.evidence
    assert found.remedy is None


def test_a_plain_engine_has_a_rule_without_a_flag_to_change():
    found = of_reuse_rule(replace(EAGLE, dropped_blocks=0))
    assert (found.verdict, found.evidence) == (Verdict.PASS, "hits are multiples of 32 tokens")


def test_an_unknown_rule_is_unknown_and_an_open_part_is_called_so():
    assert of_reuse_rule(None).verdict is Verdict.UNKNOWN
    open_rule = replace(EAGLE, dropped_blocks=None, answers_kept=None)
    assert rule_in_words(open_rule).count("is not known yet") == 2
    assert "--" not in of_reuse_rule(open_rule).evidence


OPEN = {
    RuleCause.SPECULATIVE_DECODING: replace(EAGLE, dropped_blocks=None, lookahead_tokens=4),
    RuleCause.ANSWER_NOT_KEPT: replace(WINDOW, answers_kept=None),
    RuleCause.UNIT: replace(EAGLE, unit_tokens=None, dropped_blocks=0),
}


@pytest.mark.parametrize("cause", OPEN)
@pytest.mark.parametrize("rule_known", [True, False])
def test_no_flag_and_no_part_is_named_while_that_part_of_the_rule_is_open(cause, rule_known):
    rule = OPEN[cause] if rule_known else None
    lost = turn(2, 1250, 960, 992, gives_up=32, rule=cause)
    (sentence,) = given_up_in_words(session_totals((TURNS[0], lost)), rule)
    assert sentence.startswith("The engine's reuse rule gives up 32 tokens a turn")
    assert "not known yet" in sentence
    assert not any(flag in sentence for flag in FLAGS.values())
    assert of_reuse_rule(rule).evidence.count("--") == 0


@pytest.mark.parametrize("rule", [EAGLE, None])
def test_what_a_store_gives_up_is_named_whether_the_rule_is_known_or_not(rule):
    lost = turn(2, 1250, 960, 992, gives_up=32, rule=RuleCause.STORE_CHUNK)
    (sentence,) = given_up_in_words(session_totals((TURNS[0], lost)), rule)
    assert sentence.startswith("An external KV store, which serves whole chunks of prompts, gives")
    assert FLAGS[RuleCause.STORE_CHUNK] in sentence


def test_the_unit_of_an_open_rule_is_named_with_its_flag_where_it_is_known():
    lost = turn(2, 1250, 960, 992, gives_up=32, rule=RuleCause.UNIT)
    rule = replace(EAGLE, dropped_blocks=None, answers_kept=None)
    (sentence,) = given_up_in_words(session_totals((TURNS[0], lost)), rule)
    assert FLAGS[RuleCause.UNIT] in sentence


def test_a_unit_that_is_larger_than_the_label_comes_with_its_flag():
    view = engine_view()
    assert "--prefix-match-unit" in of_match_unit(view, replace(EAGLE, unit_tokens=64)).evidence
    assert "--prefix-match-unit" not in of_match_unit(view, EAGLE).evidence
    assert "--prefix-match-unit" not in of_match_unit(view, replace(EAGLE, unit_tokens=48)).evidence
