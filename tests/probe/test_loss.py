"""The rules that name a loss's cause, one by one, and in their order."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.exposition import parse
from exporter.model import LossCause
from exporter.probe.loss import (
    RULES,
    Evidence,
    OwnUse,
    Repeat,
    Traffic,
    long_enough,
    loss,
    needs_repeat,
    room_beside,
    traffic_between,
)

QUIET = Traffic(foreign=0, alone=True, unreported_hits=0)
BUSY = Traffic(foreign=50_000, alone=False, unreported_hits=None)
MISSED_AGAIN, HIT_AGAIN = Repeat(0, QUIET), Repeat(960, QUIET)
LOST = Evidence(
    cached=0,
    ideal=960,
    prompt=1000,
    match_unit=32,
    prefix_caching=True,
    restarted=False,
    ranks=1,
    room=30_000,
    traffic=QUIET,
)
PARTIAL = replace(LOST, cached=320)


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (replace(LOST, prefix_caching=False), LossCause.DISABLED),
        (replace(LOST, restarted=True), LossCause.RESTART),
        (replace(LOST, traffic=replace(QUIET, unreported_hits=960)), LossCause.UNREPORTED),
        (replace(LOST, repeat=MISSED_AGAIN), LossCause.WEDGED),
        (replace(LOST, traffic=BUSY), LossCause.EVICTED),
        (PARTIAL, LossCause.EVICTED),
        (replace(PARTIAL, traffic=None, room=None), LossCause.EVICTED),
        (replace(LOST, ranks=2), LossCause.OTHER_RANK),
        (replace(PARTIAL, ranks=2), LossCause.OTHER_RANK),
        (replace(LOST, repeat=HIT_AGAIN), LossCause.RESET),
        (LOST, LossCause.UNEXPLAINED),
        (Evidence(cached=0, ideal=960, prompt=1000, match_unit=32), LossCause.UNEXPLAINED),
    ],
)
def test_each_cause_has_its_evidence(evidence, cause):
    found = loss(evidence)
    assert found.cause is cause
    assert found.tokens == evidence.ideal - evidence.cached
    assert found.evidence


def test_the_rules_stand_in_the_order_that_the_document_gives():
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
def test_where_two_rules_apply_the_earlier_one_names_the_cause(evidence, cause):
    assert loss(evidence).cause is cause


@pytest.mark.parametrize(
    "evidence",
    [
        replace(LOST, repeat=Repeat(0, BUSY)),  # others may have pushed it out in between
        replace(LOST, repeat=Repeat(0, None)),  # or not: unknown
        replace(LOST, repeat=MISSED_AGAIN, room=None),
        replace(LOST, repeat=MISSED_AGAIN, room=0),  # a full cache
        replace(LOST, repeat=MISSED_AGAIN, prompt=96),  # three units less the last token
        replace(LOST, repeat=MISSED_AGAIN, ranks=2),  # the repeat may have gone to the other
        replace(LOST, repeat=MISSED_AGAIN, ranks=None),
        replace(PARTIAL, repeat=MISSED_AGAIN),
    ],
)
def test_a_cache_is_not_called_wedged_without_proof(evidence):
    assert loss(evidence).cause is not LossCause.WEDGED


@pytest.mark.parametrize(
    "evidence",
    [
        replace(LOST, repeat=HIT_AGAIN, traffic=None),
        replace(LOST, repeat=HIT_AGAIN, room=None),
    ],
)
def test_a_cache_is_not_called_reset_where_it_may_have_been_full(evidence):
    assert loss(evidence).cause is LossCause.UNEXPLAINED
    assert "not known: how much others used" in loss(evidence).evidence


@pytest.mark.parametrize(("prompt", "enough"), [(96, False), (97, True), (32, False)])
def test_three_match_units_need_one_token_more(prompt, enough):
    assert long_enough(prompt, 32) is enough


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
    ],
)
def test_a_repeat_is_asked_for_only_where_it_can_tell(evidence, asked):
    assert needs_repeat(evidence) is asked


# The recorded eviction: 64 blocks of 32 tokens; a session of 353 tokens and a short answer, its
# last turn sent again after so many sessions of about 385 tokens each from others.
@pytest.mark.parametrize(
    ("sessions", "cached", "lost"),
    [(0, 352, 0), (1, 352, 0), (2, 352, 0), (3, 352, 0), (4, 352, 0), (5, 192, 160), (6, 0, 352),
     (7, 0, 352)],
)  # fmt: skip
def test_the_recorded_eviction_is_told_as_such(sessions, cached, lost):
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
    traffic = traffic_between(before, after, OwnUse(prompt=353, cached=cached, completion=1))
    assert traffic.foreign == pytest.approx(foreign)
    evidence = Evidence(
        cached=cached,
        ideal=352,
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
        assert "others used" in found.evidence
    elif sessions == 4:
        assert evidence.pressed(traffic) is False, "49 blocks had room beside the session"


def test_counters_that_began_anew_say_nothing_of_the_traffic():
    page = (Path(__file__).parent / "data" / "devevict_metrics.txt").read_bytes()
    before = parse(page, at=0, scrape_seconds=0)
    assert traffic_between(before, replace(before, queried_tokens=5.0), OwnUse()) is None
    assert traffic_between(None, before, OwnUse()) is None
    assert traffic_between(before, replace(before, generation_tokens=None), OwnUse()) is None


maybe = st.none() | st.booleans()
traffics = st.none() | st.builds(
    Traffic,
    foreign=st.floats(0, 1e6),
    alone=st.booleans(),
    unreported_hits=st.none() | st.floats(-1e3, 1e5),
)


@given(
    evidence=st.builds(
        Evidence,
        cached=st.integers(0, 5000),
        ideal=st.integers(0, 5000),
        prompt=st.integers(1, 6000),
        match_unit=st.sampled_from([16, 32, 528]),
        prefix_caching=maybe,
        restarted=maybe,
        ranks=st.none() | st.integers(1, 8),
        room=st.none() | st.floats(0, 1e6),
        traffic=traffics,
        repeat=st.none() | st.builds(Repeat, cached=st.integers(0, 5000), traffic=traffics),
    )
)
def test_every_loss_has_one_cause_and_words_for_it_and_no_gain_has_any(evidence):
    found = loss(evidence)
    if evidence.cached >= evidence.ideal:
        assert found is None
    else:
        assert found.tokens == evidence.ideal - evidence.cached > 0
        assert found.evidence
