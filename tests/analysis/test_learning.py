"""The reuse rule is learned from hits and from what /metrics tells, and only on enough evidence."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reuse_sessions import also_explaining, hints_for, hits_of, rules, sessions

from exporter.analysis.reuse.learning import Hints, Learned, Observation, hints_of, learn
from exporter.analysis.reuse.rule import Earlier, Prefix, Rule, Span, sent_again, served
from exporter.engine.metrics.exposition import parse
from exporter.model.reuse import ReuseRule

PAGE = (Path(__file__).parent / "data" / "devevict_metrics.txt").read_bytes()
PLAIN = parse(PAGE, at=0, scrape_seconds=0)


def after(prompt, before, shared):
    return Prefix(prompt, (Earlier(before, shared),))


SESSION = [after(p + 400, p, p + 150) for p in (1000, 1431, 1777, 2290, 2801, 3333, 3999)]


def hits(rule, prefixes=SESSION):
    """What a sound engine serves at least."""
    return [Observation(prefix, served(rule, prefix).least) for prefix in prefixes]


def short(*cached, prefixes=SESSION):
    return [Observation(prefix, one) for prefix, one in zip(prefixes, cached, strict=False)]


NOTHING_TOLD = Hints(16)
PLAIN_TOLD = Hints(16, uneven=False, speculative=False)


@pytest.mark.parametrize(
    ("hints", "seen", "rule"),
    [
        (Hints(), hits(Rule(16)), None),  # without a label there is no unit
        (NOTHING_TOLD, [], None),
        (PLAIN_TOLD, [], Rule(16)),  # nothing else fits
        (NOTHING_TOLD, hits(Rule(16))[:2], None),
        (NOTHING_TOLD, hits(Rule(16))[:3], Rule(16)),
        (NOTHING_TOLD, hits(Rule(528)), Rule(528)),
        (Hints(4), hits(Rule(256)), Rule(256)),
        (NOTHING_TOLD, hits(Rule(528, 1)), Rule(528, 1)),
        (NOTHING_TOLD, hits(Rule(16, 1)), Rule(16, 1)),
        (NOTHING_TOLD, hits(Rule(16, answers_kept=False)), Rule(16, answers_kept=False)),
        (NOTHING_TOLD, hits(Rule(64, answers_kept=False)), Rule(64, answers_kept=False)),
        (Hints(528), hits(Rule(16)), Rule(16)),  # hits are no multiples of the label
        (NOTHING_TOLD, short(160), None),
        (NOTHING_TOLD, short(992, 1008, 1904), None),  # no rule explains all
        (NOTHING_TOLD, short(0, 0, 0, 0), None),
        (PLAIN_TOLD, short(0, 0, 0, 0), Rule(16)),
    ],
)
def test_the_rule_is_the_simplest_that_explains_the_hits(hints, seen, rule):
    found = learn(seen, hints)
    assert (found and found.rule) == rule


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (Rule(16, 1), 3),
        (Rule(16, answers_kept=False), 3),
        (Rule(528), 3),
        (Rule(528, 1), 3),
        (Rule(528, answers_kept=False), 3),
    ],
)
def test_three_short_hits_disprove_what_metrics_told(rule, needed):
    seen = hits(rule)
    assert learn(seen[: needed - 1], PLAIN_TOLD) is None
    assert learn(seen[:needed], PLAIN_TOLD) is not None
    assert learn(seen, PLAIN_TOLD).rule == rule


def test_a_rule_beyond_what_metrics_told_needs_three_hits_that_nothing_told_explains():
    """Sound hits of a rule that was told are no evidence against what was told."""
    told = Hints(16, uneven=False, speculative=True)
    sound = [Observation(p, served(Rule(16, 1), p).least) for p in SESSION[:4]]
    lost = Observation(SESSION[4], served(Rule(16, 1), SESSION[4]).least - 160)
    assert learn([*sound, lost], told) is None


def test_a_disturbed_short_hit_fits_any_rule_that_serves_more():
    seen = [*hits(Rule(16))[:3], Observation(SESSION[3], 160, disturbed=True)]
    assert learn(seen, NOTHING_TOLD).rule == Rule(16)
    assert learn([replace(one, disturbed=False) for one in seen], NOTHING_TOLD) is None


def test_a_disturbed_hit_above_a_rule_still_disproves_it():
    above = Observation(SESSION[3], 2432, disturbed=True)
    assert learn([*hits(Rule(528))[:3], above], NOTHING_TOLD) is None


def test_a_larger_unit_is_open_while_a_smaller_one_that_metrics_point_to_explains_as_much():
    """Three hits of Gemma-4 after a restart: all are multiples of 128, but the unit is 64."""
    turns = [after(1573, 1415, 1446), after(1678, 1573, 1604), after(1760, 1678, 1709)]
    uneven = Hints(32, uneven=True, speculative=False)
    right = Rule(64, answers_kept=False)
    seen = hits(right, turns)
    assert [one.cached for one in seen] == [1408, 1536, 1664]
    found = learn(seen, uneven)
    assert found.told.unit_tokens is None
    assert found.told_apart_by(sent_again(1760))
    again = Observation(sent_again(1760), 1728)
    assert learn([*seen, again], uneven).told == ReuseRule(64, 0, False, 0)


def test_misses_tell_units_apart_that_hits_do_not():
    """All hits are 2112 tokens: with unit 528 the earlier turns would have hit as well."""
    early = [after(p + 200, p, p + 20) for p in (700, 1200, 1750)]
    late = [after(p + 300, p, 2200) for p in (2130, 2150, 2170)]
    seen = [*(Observation(p, 0) for p in early), *(Observation(p, 2112) for p in late)]
    assert learn(seen[3:], Hints(528)).rule == Rule(528)
    found = learn(seen, Hints(528))
    assert found.rule == Rule(2112)
    assert all(found.span(one.prefix) == Span(one.cached, one.cached) for one in seen)


def test_a_miss_that_no_rule_explains_changes_nothing():
    seen = hits(Rule(528))
    assert learn([*seen, Observation(SESSION[-1], 0)], NOTHING_TOLD) == learn(seen, NOTHING_TOLD)


def test_what_hits_and_metrics_leave_open_is_null():
    """Each answer ends a block: a dropped block looks like an answer that is not kept."""
    prefixes = [after(p + 100, p, p + 15) for p in (1016, 1336, 1656)]
    seen = [Observation(prefix, served(Rule(32, 1), prefix).least) for prefix in prefixes]
    found = learn(seen, Hints(32, uneven=True, speculative=True))
    assert found.told == ReuseRule(32, None, None, 0)
    assert found.told_apart_by(after(1200, 1130, 1140))
    assert found.told_apart_by(after(1130, 1130, 1130)), "a repeat has no answer to reuse"
    assert not found.told_apart_by(after(1200, 1112, 1127))


def test_the_rule_of_a_hit_is_the_simplest_open_one_that_explains_it():
    known = Learned(Rule(16), (Rule(16, 1),))
    prefix = SESSION[0]
    assert known.rule_for(prefix, 1136) == Rule(16)
    assert known.rule_for(prefix, 1120) == Rule(16, 1)
    assert known.rule_for(prefix, 16) == Rule(16)
    assert known.span(prefix) == Span(1120, 1136)


def with_cache(**changes):
    return replace(PLAIN, cache=replace(PLAIN.cache, **changes))


def labels_without(name):
    return {label: value for label, value in PLAIN.cache.labels.items() if label != name}


@pytest.mark.parametrize(
    ("engine", "uneven"),
    [
        (None, None),
        (PLAIN, False),
        (with_cache(capacity_tokens=1800), True),
        (with_cache(labels=labels_without("kv_cache_size_tokens")), None),  # before vLLM 0.24
        (replace(with_cache(num_blocks=128), ranks=2), False),  # the label has the blocks of both
        (with_cache(num_blocks=128), True),
        (with_cache(num_blocks=None), None),
    ],
)
def test_layers_that_keep_different_amounts_show_in_the_size_of_the_cache(engine, uneven):
    assert hints_of(engine).uneven is uneven


def test_hints_are_the_label_speculation_and_the_interval_of_kept_blocks():
    engine = replace(PLAIN, speculative=True, draft_tokens=3)
    assert hints_of(engine) == Hints(32, False, True, 3)
    for interval, dense in (("None", True), ("0", None)):
        labels = {**PLAIN.cache.labels, "prefix_cache_retention_interval": interval}
        assert hints_of(with_cache(labels=labels)).dense is dense
    assert hints_of(None) == Hints()


@given(labelled=rules(), data=st.data())
def test_an_undisturbed_session_gives_a_rule_that_explains_all_of_it(labelled, data):
    label, rule = labelled
    hints = data.draw(hints_for(label, rule))
    seen = data.draw(hits_of(rule, data.draw(sessions(rule.unit_tokens))))
    found = learn(seen, hints)
    if found is None:
        assert sum(one.cached > 0 for one in seen) < 3
        return
    assert all(one.fits(found.rule) for one in seen)
    assert found == learn(seen[::-1], hints)
    if not also_explaining(rule, label, seen):
        assert (found.rule, found.others) == (rule, ())
