"""The rules that name a loss's cause, one by one, and in their order."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loss_evidence_records import BUSY, HIT_AGAIN, LOST, MISSED_AGAIN, QUIET

from exporter.analysis.hits.traffic import OwnTraffic, Traffic, room_beside, traffic_between
from exporter.analysis.loss.causes import RULES, Evidence, loss, needs_repeat
from exporter.analysis.reuse.repeated_prompt import Repeat
from exporter.engine.metrics.exposition import parse
from exporter.model.session import LossCause

LIGHT = Traffic(foreign=2000, alone=False, unreported_hits=-1900, hits_beyond=100)
NEVER = replace(LOST, hit_before=False)
PARTIAL = replace(LOST, cached=320)
UNSEEN = replace(PARTIAL, traffic=None, room=None)
BARE = Evidence(cached=0, expected=960, prompt=1000, match_unit=32, rule_known=True)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (replace(LOST, prefix_caching=False), LossCause.DISABLED),
        (replace(LOST, restarted=True), LossCause.RESTART),
        (replace(LOST, traffic=replace(QUIET, unreported_hits=960)), LossCause.UNREPORTED),
        (replace(LOST, repeat=MISSED_AGAIN), LossCause.WEDGED),
        (replace(NEVER, repeat=MISSED_AGAIN), LossCause.NEVER_HIT),
        (replace(LOST, traffic=BUSY), LossCause.EVICTED),
        (replace(PARTIAL, traffic=BUSY), LossCause.EVICTED),
        (UNSEEN, LossCause.EVICTED),
        (replace(PARTIAL, traffic=LIGHT, room=None), LossCause.EVICTED),
        (PARTIAL, LossCause.UNEXPLAINED),
        (replace(PARTIAL, traffic=LIGHT), LossCause.UNEXPLAINED),
        (replace(PARTIAL, traffic=QUIET, room=None), LossCause.UNEXPLAINED),
        (replace(LOST, ranks=2), LossCause.OTHER_RANK),
        (replace(PARTIAL, ranks=2), LossCause.OTHER_RANK),
        (replace(PARTIAL, ranks=2, ranks_used=2), LossCause.OTHER_RANK),
        (replace(LOST, ranks=2, ranks_used=2), LossCause.UNEXPLAINED),
        (replace(LOST, ranks=2, ranks_used=2, repeat=HIT_AGAIN), LossCause.RESET),
        (replace(LOST, repeat=HIT_AGAIN), LossCause.RESET),
        (replace(NEVER, repeat=HIT_AGAIN), LossCause.UNEXPLAINED),
        (LOST, LossCause.UNEXPLAINED),
        (BARE, LossCause.UNEXPLAINED),
    ],
)
def test_each_cause_has_its_evidence(evidence, cause):
    found = loss(evidence)
    assert found.cause is cause
    assert found.tokens == evidence.expected - evidence.cached
    assert found.evidence


def test_the_rules_are_in_the_order_of_the_document():
    document = (Path(__file__).parents[2] / "docs" / "loss-causes.md").read_text()
    places = [document.index(f"| `{cause}` |") for cause in LossCause]
    assert places == sorted(places)
    assert len(RULES) == len(LossCause)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [  # two rules apply: the earlier one wins
        (replace(LOST, prefix_caching=False, restarted=True), LossCause.DISABLED),
        (replace(LOST, restarted=True, traffic=BUSY), LossCause.RESTART),
        (replace(LOST, traffic=BUSY, repeat=MISSED_AGAIN), LossCause.WEDGED),
        (replace(LOST, traffic=BUSY, ranks=2), LossCause.EVICTED),
        (replace(LOST, traffic=BUSY, repeat=HIT_AGAIN), LossCause.EVICTED),
    ],
)
def test_if_two_rules_apply_the_earlier_one_names_the_cause(evidence, cause):
    assert loss(evidence).cause is cause


@pytest.mark.parametrize(
    "evidence",
    [PARTIAL, UNSEEN, LOST, replace(PARTIAL, ranks=2), replace(PARTIAL, traffic=LIGHT, room=None)],
)
def test_while_the_reuse_rule_is_unknown_a_short_hit_is_no_loss(evidence):
    assert loss(replace(evidence, rule_known=False)) is None


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (replace(LOST, prefix_caching=False), LossCause.DISABLED),
        (replace(LOST, restarted=True), LossCause.RESTART),
        (replace(LOST, traffic=replace(QUIET, unreported_hits=960)), LossCause.UNREPORTED),
        (replace(LOST, repeat=MISSED_AGAIN), LossCause.WEDGED),
        (replace(NEVER, repeat=MISSED_AGAIN), LossCause.NEVER_HIT),
        (replace(LOST, traffic=BUSY), LossCause.EVICTED),
        (replace(PARTIAL, traffic=BUSY), LossCause.EVICTED),
        (replace(LOST, repeat=HIT_AGAIN), LossCause.RESET),
    ],
)
def test_a_cause_that_no_rule_explains_is_named_also_while_the_rule_is_unknown(evidence, cause):
    assert loss(replace(evidence, rule_known=False)).cause is cause


@pytest.mark.parametrize("foreign", [0, 1, 29_999, 30_000, 10**6])
@pytest.mark.parametrize("beside", [0, 31_000])
@pytest.mark.parametrize("room", [None, 0, 30_000])
@pytest.mark.parametrize("cached", [0, 320])
def test_a_loss_is_never_evicted_if_nothing_else_used_the_cache(foreign, beside, room, cached):
    traffic = replace(QUIET, foreign=foreign, beside=beside)
    found = loss(replace(LOST, cached=cached, traffic=traffic, room=room))
    if found.cause is LossCause.EVICTED:
        assert "used 0 tokens" not in found.evidence
        assert room is None or foreign + beside >= room
    elif room is not None:
        assert foreign + beside < room


def test_the_exporters_own_controls_can_evict_a_session():
    found = loss(replace(PARTIAL, traffic=replace(QUIET, beside=31_000)))
    assert found.cause is LossCause.EVICTED
    assert "the probe itself used 31,000 tokens under other salts" in found.evidence


# Hits that usage does not tell

HIDDEN = replace(QUIET, unreported_hits=960, hits_beyond=960)
HIDDEN_AMONG_OTHERS = Traffic(foreign=300, alone=False, unreported_hits=700, hits_beyond=1000)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (replace(LOST, traffic=HIDDEN), LossCause.UNREPORTED),
        (replace(LOST, traffic=HIDDEN_AMONG_OTHERS), LossCause.UNREPORTED),
        (replace(LOST, traffic=LIGHT), LossCause.UNEXPLAINED),
        # Others hide what this turn hit; the repeat shows that usage hides hits.
        (
            replace(
                LOST,
                traffic=replace(LIGHT, hits_beyond=1900),
                repeat=Repeat(0, HIDDEN_AMONG_OTHERS, same_ids=True),
            ),
            LossCause.UNREPORTED,
        ),
        # The turn itself did miss, whatever usage says of its repeat.
        (replace(LOST, repeat=Repeat(0, HIDDEN, same_ids=True)), LossCause.UNEXPLAINED),
    ],
)
def test_hits_that_the_engine_counted_for_us_are_unreported(evidence, cause):
    assert loss(evidence).cause is cause


@pytest.mark.parametrize(
    "evidence",
    [
        replace(LOST, repeat=HIT_AGAIN, traffic=None),
        replace(LOST, repeat=HIT_AGAIN, room=None),
    ],
)
def test_a_cache_that_may_have_been_full_is_not_called_reset(evidence):
    assert loss(evidence).cause is LossCause.UNEXPLAINED
    assert "not known: how much others used" in loss(evidence).evidence


@pytest.mark.parametrize(
    ("evidence", "asked"),
    [
        (LOST, True),
        (PARTIAL, False),
        (replace(LOST, prefix_caching=False), False),
        (replace(LOST, restarted=True), False),
        (replace(LOST, traffic=BUSY), False),
        (replace(LOST, ranks=2), False),
        (replace(LOST, traffic=None), True),
        (replace(LOST, traffic=HIDDEN), False),
    ],
)
def test_a_prompt_is_repeated_only_if_that_can_tell_the_cause(evidence, asked):
    assert needs_repeat(evidence) is asked


# The recorded eviction: 64 blocks of 32 tokens; a session of 353 tokens and a short answer, its
# last turn sent again after so many sessions of about 385 tokens each from others.
@pytest.mark.parametrize(
    ("sessions", "cached", "lost"),
    [(0, 352, 0), (1, 352, 0), (2, 352, 0), (3, 352, 0), (4, 352, 0), (5, 192, 160), (6, 0, 352),
     (7, 0, 352)],
)  # fmt: skip
def test_the_recorded_eviction_has_the_cause_evicted(sessions, cached, lost):
    page = (Path(__file__).parent / "data" / "devevict_metrics.txt").read_bytes()
    after = parse(page, at=0, scrape_seconds=0)
    assert after.cache.capacity_tokens == 2048
    foreign = sessions * 12.2 * 32
    before = replace(
        after,
        queried_tokens=after.queried_tokens - foreign - 353,
        generation_tokens=after.generation_tokens - 1,
        hit_tokens=after.hit_tokens - cached,
    )
    traffic = traffic_between(before, after, OwnTraffic(prompt=353, cached=cached, completion=1))
    assert traffic.foreign == pytest.approx(foreign)
    evidence = Evidence(
        cached=cached,
        expected=352,
        prompt=353,
        match_unit=32,
        prefix_caching=True,
        restarted=False,
        ranks=1,
        room=room_beside(369, before, after),
        traffic=traffic,
    )
    found = loss(evidence)
    assert (found.tokens if found else 0) == lost
    if found:
        assert found.cause is LossCause.EVICTED
        assert "other requests used" in found.evidence
    elif sessions == 4:
        assert evidence.pressed is False, "49 blocks had room beside the session"


maybe = st.none() | st.booleans()
traffics = st.none() | st.builds(
    Traffic,
    foreign=st.floats(0, 1e6),
    alone=st.booleans(),
    unreported_hits=st.none() | st.floats(-1e3, 1e5),
    hits_beyond=st.none() | st.floats(-1e3, 1e5),
    beside=st.floats(0, 1e5),
)


@given(
    evidence=st.builds(
        Evidence,
        cached=st.integers(0, 5000),
        expected=st.integers(0, 5000),
        prompt=st.integers(1, 6000),
        match_unit=st.sampled_from([16, 32, 528]),
        prefix_caching=maybe,
        restarted=maybe,
        ranks=st.none() | st.integers(1, 8),
        room=st.none() | st.floats(0, 1e6),
        traffic=traffics,
        repeat=st.none()
        | st.builds(Repeat, cached=st.integers(0, 5000), traffic=traffics, same_ids=maybe),
        hit_before=st.booleans(),
        rule_known=st.booleans(),
        repeat_hit=st.none() | st.integers(0, 5000),
    )
)
def test_every_loss_has_one_cause_with_evidence_and_a_gain_has_none(evidence):
    found = loss(evidence)
    if evidence.cached >= evidence.expected:
        assert found is None
    elif found is None:
        assert not evidence.rule_known
    else:
        assert found.tokens == evidence.expected - evidence.cached > 0
        assert found.evidence
        if found.cause is LossCause.EVICTED:
            assert evidence.pressed is not False
        if found.cause in (LossCause.WEDGED, LossCause.RESET):
            assert evidence.hit_before
