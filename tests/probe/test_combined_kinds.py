"""Engines of two kinds at once: a reuse rule together with two API servers or two ranks."""

from __future__ import annotations

import pytest

from exporter.analysis.reuse.rule import Rule
from exporter.model.session import LossCause, Notice
from exporter.probe.check import Check
from exporter.simulator.faults import behaviours

LARGE = {"num_blocks": 20_000}
RULES = {
    "eagle": Rule(16, 1),
    "eagle-hybrid": Rule(528, 1),
    "hybrid-528": Rule(528),
    "gemma3": Rule(16, answers_kept=False),
    "sliding-eagle": Rule(16, 1, answers_kept=False),
}
each_rule = pytest.mark.parametrize("kind", RULES)


def given_up(result):
    return [sum(part.tokens for part in turn.rule_losses) for turn in result.turns]


async def three_sessions(bench, kind, *behaviour, **settings):
    """The sessions, the rule that is known after them, and what `check` then finds."""
    async with bench(like=kind, **LARGE, **settings) as at:
        for one in behaviour:
            at.simulator.inject(one)
        results = [await at.play() for _ in range(3)]
        known = at.requests.knowledge.learned
        report = await Check(at.plan, at.requests, at.new_salt).run()
    return results, known, {one.name: one for one in report.findings}


@each_rule
async def test_two_api_servers_hide_no_rule(bench, kind):
    results, known, found = await three_sessions(bench, kind, behaviours.NoStartTime())
    assert known.rule == RULES[kind]
    for result in results:
        assert [turn.loss for turn in result.turns] == [None] * 8
        assert Notice.REUSE_RULE_UNKNOWN not in result.notices
    assert {turn.efficiency_ratio for turn in results[-1].turns[1:]} <= {1.0, None}
    assert [name for name, one in found.items() if one.verdict == "fail"] == []


@each_rule
async def test_a_hit_on_another_rank_is_never_the_rule_and_the_rule_never_a_loss(bench, kind):
    sound, _, _ = await three_sessions(bench, kind)
    most = max(map(max, map(given_up, sound)))
    two_ranks = behaviours.Spread("in_turn"), behaviours.NoStartTime()
    results, known, found = await three_sessions(bench, kind, *two_ranks, engine_ranks=2)
    assert known is None or known.told.unit_tokens in (None, RULES[kind].unit_tokens)
    for result in results:
        causes = {turn.loss.cause for turn in result.turns if turn.loss is not None}
        assert causes <= {LossCause.OTHER_RANK}
        assert max(given_up(result)) <= most
        assert {turn.efficiency_ratio for turn in result.turns} != {1.0}
        assert Notice.CACHE_WEDGED not in result.notices
    failed = {name for name, one in found.items() if one.verdict == "fail"}
    assert failed <= {"second_turn"}
