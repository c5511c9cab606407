"""What each rule of the family serves, with the numbers of engines that were measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_caches import PLAYED, requests_of
from reuse_sessions import rules, sessions

from exporter.analysis.reuse.cache_math import common_prefix
from exporter.analysis.reuse.rule import (
    Earlier,
    Prefix,
    Rule,
    Span,
    given_up,
    prefix_of,
    sent_again,
    served,
    span_of,
)
from exporter.model.reuse import RuleCause

UNIT, SPECULATION, ANSWERS = (
    RuleCause.UNIT,
    RuleCause.SPECULATIVE_DECODING,
    RuleCause.ANSWER_NOT_KEPT,
)


def after(prompt, before, shared):
    """A prompt whose first `shared` tokens were computed with a prompt of `before` tokens."""
    return Prefix(prompt, (Earlier(before, shared),))


@pytest.mark.parametrize(
    ("rule", "prefix", "tokens"),
    [
        # Plain: all whole blocks
        (Rule(16), after(1500, 1000, 1200), 1200),
        (Rule(16), after(1500, 1000, 1199), 1184),
        (Rule(16), after(1200, 1000, 1200), 1184),  # never the last token
        (Rule(16), after(1201, 1000, 1201), 1200),
        (Rule(256), after(1500, 1000, 1200), 1024),
        (Rule(2048), after(1500, 1000, 1200), 0),
        # EAGLE and MTP: one block less, at each turn
        (Rule(32, 1), after(1500, 1000, 1200), 1152),
        (Rule(2048, 1), after(6000, 4000, 4200), 2048),
        (Rule(528, 1), after(3500, 2700, 3000), 2112),
        (Rule(528, 1), after(900, 700, 800), 0),  # not below 0
        # Sliding windows, and linear layers: floor((p - 1) / A) * A
        (Rule(16, answers_kept=False), after(1500, 1000, 1200), 992),
        (Rule(16, answers_kept=False), after(1500, 1001, 1200), 1000 // 16 * 16),
        (Rule(16, answers_kept=False), after(1500, 1025, 1200), 1024),
        (Rule(16, answers_kept=False), after(1500, 1024, 1200), 1008),
        (Rule(256, answers_kept=False), after(1500, 1000, 1020), 768),
        (Rule(256, answers_kept=False), after(1500, 1000, 1200), 768),
        # Groups of several block sizes: their least common multiple
        (Rule(64, answers_kept=False), after(1500, 1000, 1200), 960),
        # A hybrid with MTP: the end of the prompt itself is a boundary too
        (Rule(528, 1, answers_kept=False), after(3000, 2640, 2800), 2112),
        (Rule(528, 1, answers_kept=False), after(3000, 2641, 2800), 2112),
    ],
)
def test_each_rule_serves_what_was_measured(rule, prefix, tokens):
    assert served(rule, prefix) == Span(tokens, tokens)


@pytest.mark.parametrize(
    ("rule", "prefix", "span"),
    [
        # 0.33: the tokens after a hit are looked ahead
        (Rule(16, lookahead_tokens=4), after(1500, 1000, 1203), Span(1184, 1200)),
        (Rule(16, lookahead_tokens=4), after(1500, 1000, 1204), Span(1200, 1200)),
        (Rule(16, lookahead_tokens=4), after(1500, 1000, 1200), Span(1184, 1200)),
        # n-gram: up to k + 1 tokens of the last step are not kept
        (Rule(16, lookahead_tokens=8), after(1500, 1000, 1207), Span(1184, 1200)),
        # A prompt that ends within the earlier one: a window may reach back to the start
        (Rule(16, answers_kept=False), after(1500, 1000, 800), Span(0, 800)),
        (Rule(16, answers_kept=False), after(800, 1000, 800), Span(0, 784)),
    ],
)
def test_a_rule_that_does_not_tell_one_number_has_two_bounds(rule, prefix, span):
    assert served(rule, prefix) == span


@pytest.mark.parametrize(
    ("rule", "prompt", "hit"),
    [
        (Rule(32), 128, 96),
        (Rule(32), 129, 128),
        (Rule(32, 1), 129, 96),  # a repeat lacks the block too
        (Rule(32, 1), 33, 0),
        (Rule(32, answers_kept=False), 129, 128),
        (Rule(32, answers_kept=False), 128, 96),
        (Rule(2048, 1), 4000, 0),
        (Rule(16, lookahead_tokens=4), 130, 128),
    ],
)
def test_an_identical_prompt_hits_at_most_by_the_rule(rule, prompt, hit):
    assert served(rule, sent_again(prompt)).most == hit


def test_the_best_of_the_earlier_requests_counts():
    prefix = Prefix(1500, (Earlier(1000, 1200), Earlier(400, 1300)))
    assert served(Rule(16), prefix).most == 1296
    assert served(Rule(16, answers_kept=False), prefix).most == 992
    assert served(Rule(16), Prefix(1500, ())) == Span(0, 0)


def test_rules_that_are_open_serve_between_the_least_and_the_most_of_them():
    prefix = after(1500, 1000, 1200)
    assert span_of([Rule(16), Rule(16, 1), Rule(16, answers_kept=False)], prefix) == Span(992, 1200)


@given(labelled=rules(), data=st.data())
def test_an_earlier_request_that_a_later_one_replaces_changes_nothing(labelled, data):
    _, rule = labelled
    earlier = data.draw(st.lists(st.builds(Earlier, st.integers(1, 9000), st.integers(0, 9000))))
    prompt = data.draw(st.integers(1, 9000))
    short = prefix_of(prompt, earlier)
    assert served(rule, short).most == served(rule, Prefix(prompt, tuple(earlier))).most


@pytest.mark.parametrize(
    ("rule", "block", "parts"),  # of a prompt of 1500, with 1000 and an answer of 200 before
    [
        (Rule(16), 16, {}),
        (Rule(16, 1), 16, {SPECULATION: 16}),
        (Rule(16, answers_kept=False), 16, {ANSWERS: 208}),
        (Rule(256), 16, {UNIT: 176}),
        (Rule(256, 1), 16, {UNIT: 176, SPECULATION: 256}),
        (Rule(256, answers_kept=False), 16, {ANSWERS: 208, UNIT: 224}),
        (Rule(256, 1, answers_kept=False), 16, {ANSWERS: 208, UNIT: 224, SPECULATION: 256}),
        (Rule(16, lookahead_tokens=8), 16, {SPECULATION: 16}),
    ],
)
def test_what_a_rule_gives_up_is_told_by_cause(rule, block, parts):
    prefix = after(1500, 1000, 1200)
    ideal, attainable = served(Rule(block), prefix).most, served(rule, prefix).least
    found = given_up(rule, ideal, attainable, block, prefix)
    assert {one.cause: one.tokens for one in found} == parts


@given(labelled=rules(), data=st.data())
def test_what_a_rule_gives_up_adds_up_to_ideal_minus_attainable(labelled, data):
    label, rule = labelled
    for prefix in data.draw(sessions(rule.unit_tokens)):
        ideal, span = served(Rule(label), prefix).most, served(rule, prefix)
        assert span.least <= span.most <= ideal < prefix.prompt
        assert span.most % rule.unit_tokens == 0
        attainable = data.draw(st.sampled_from([span.least, span.most]))
        found = given_up(rule, ideal, attainable, label, prefix)
        assert sum(one.tokens for one in found) == ideal - attainable
        assert all(one.tokens > 0 for one in found)
        assert len({one.cause for one in found}) == len(found)


VLLM_RULES = {
    "full": Rule(16),
    "full, eagle": Rule(16, 1),
    "window 64": Rule(16, answers_kept=False),
    "window 64, eagle": Rule(16, 1, answers_kept=False),
    "full and window 64": Rule(16, answers_kept=False),
    "full and window 64, eagle": Rule(16, 1, answers_kept=False),
    "full and window 64 in blocks of 32": Rule(32, answers_kept=False),
    "full and linear": Rule(16, answers_kept=False),
    "full and linear, eagle": Rule(16, 1, answers_kept=False),
}


@pytest.mark.parametrize("groups", PLAYED)
def test_vllms_own_cache_manager_serves_what_the_rule_says(groups):
    earlier: list[tuple[int, list[int]]] = []
    for one in requests_of(PLAYED[groups]):
        shared = [Earlier(n, common_prefix(one.prompt, ids)) for n, ids in earlier]
        span = served(VLLM_RULES[groups], prefix_of(len(one.prompt), shared))
        assert span.least <= one.cached <= span.most
        earlier.append((len(one.prompt), one.prompt + one.answer[:-1]))
