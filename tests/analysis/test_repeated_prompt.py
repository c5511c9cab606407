"""What an identical prompt, sent again, says about the cache: the only rule for "wedged"."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.analysis.hits.traffic import Traffic
from exporter.analysis.reuse.repeated_prompt import (
    Repeat,
    RepeatConditions,
    RepeatOutcome,
    judge_repeat,
    long_enough,
)

QUIET = Traffic(foreign=0, alone=True, unreported_hits=0, hits_beyond=0)
BUSY = Traffic(foreign=50_000, alone=False, unreported_hits=-40_000, hits_beyond=400)
MISSED = Repeat(0, QUIET, same_ids=True)
BY = RepeatConditions(
    prompt=1000, match_unit=32, repeat_hit=992, room=30_000, ranks=1, hit_before=True
)


@pytest.mark.parametrize(("prompt", "enough"), [(96, False), (97, True), (32, False)])
def test_three_match_units_need_one_token_more(prompt, enough):
    assert long_enough(prompt, 32) is enough


def test_a_process_that_hit_before_and_misses_now_is_wedged():
    assert judge_repeat(MISSED, BY)[0] is RepeatOutcome.WEDGED


def test_a_process_that_never_hit_is_not_wedged():
    assert judge_repeat(MISSED, replace(BY, hit_before=False))[0] is RepeatOutcome.NEVER_HIT


def test_a_repeat_that_hit_is_always_a_hit():
    assert (
        judge_repeat(Repeat(32, None), replace(BY, match_unit=None, room=None))[0]
        is RepeatOutcome.HIT
    )


@pytest.mark.parametrize(
    "traffic",
    [
        replace(QUIET, unreported_hits=992, hits_beyond=992),
        # Others looked up 300 tokens: of 1200 hits at least 900 were of our prompt.
        Traffic(foreign=300, alone=False, unreported_hits=900, hits_beyond=1200),
    ],
)
def test_hits_that_the_engine_counted_are_unreported(traffic):
    outcome, words = judge_repeat(replace(MISSED, traffic=traffic), BY)
    assert outcome is RepeatOutcome.UNREPORTED
    assert f"at least {traffic.unreported_hits:.0f} hit tokens" in words


@pytest.mark.parametrize(
    ("repeat", "by", "words"),
    [
        (MISSED, replace(BY, prefix_caching=False), "prefix caching is off"),
        (MISSED, replace(BY, several=True), "several engines"),
        (replace(MISSED, traffic=replace(QUIET, elsewhere=1000)), BY, "several engines"),
        (MISSED, replace(BY, match_unit=None), "match unit is unknown"),
        (MISSED, replace(BY, prompt=96), "too short"),
        (MISSED, replace(BY, ranks=2), "different ranks"),
        (MISSED, replace(BY, ranks=None), "different ranks"),
        (replace(MISSED, same_ids=False), BY, "different token ids"),
        (replace(MISSED, same_ids=None), BY, "is unknown"),
        (replace(MISSED, traffic=None), BY, "is unknown"),
        (MISSED, replace(BY, room=None), "is unknown"),
        (MISSED, replace(BY, room=0), "other requests filled the cache"),
        (replace(MISSED, traffic=BUSY), BY, "other requests filled the cache"),
        (replace(MISSED, traffic=replace(QUIET, hits_beyond=None)), BY, "counted a hit"),
        # Others' hits, as many as ours would have been: ours may be among them.
        (
            replace(MISSED, traffic=Traffic(3000, alone=False, unreported_hits=-2008, hits_beyond=992)),
            BY,
            "counted a hit",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("hit_before", [True, False])
def test_a_repeat_with_another_possible_reason_proves_nothing(repeat, by, words, hit_before):
    outcome, said = judge_repeat(repeat, replace(by, hit_before=hit_before))
    assert outcome is RepeatOutcome.UNKNOWN
    assert words in said


def test_the_hits_of_others_hide_a_miss_only_from_what_the_rule_lets_the_repeat_hit():
    """With a dropped block of 528 tokens a repeat of 1000 tokens hits nothing, on a sound engine."""
    others = Traffic(3000, alone=False, unreported_hits=-2300, hits_beyond=700)
    repeat = replace(MISSED, traffic=others)
    assert judge_repeat(repeat, BY)[0] is RepeatOutcome.WEDGED
    assert judge_repeat(repeat, replace(BY, repeat_hit=640))[0] is RepeatOutcome.UNKNOWN


def test_light_traffic_of_others_does_not_hide_a_wedge():
    light = Traffic(foreign=2000, alone=False, unreported_hits=-1900, hits_beyond=100)
    assert judge_repeat(replace(MISSED, traffic=light), BY)[0] is RepeatOutcome.WEDGED


@given(
    repeat=st.builds(
        Repeat,
        cached=st.integers(0, 2000),
        traffic=st.none()
        | st.builds(
            Traffic,
            foreign=st.floats(0, 1e5),
            alone=st.booleans(),
            unreported_hits=st.none() | st.floats(-1e4, 1e4),
            elsewhere=st.sampled_from([0.0, 10.0]),
            hits_beyond=st.none() | st.floats(-1e3, 1e4),
        ),
        same_ids=st.none() | st.booleans(),
    ),
    by=st.builds(
        RepeatConditions,
        prompt=st.integers(1, 5000),
        match_unit=st.none() | st.sampled_from([16, 528]),
        repeat_hit=st.none() | st.integers(0, 5000),
        room=st.none() | st.floats(0, 1e5),
        ranks=st.none() | st.integers(1, 4),
        hit_before=st.booleans(),
        prefix_caching=st.none() | st.booleans(),
        several=st.booleans(),
    ),
)
def test_wedged_needs_every_piece_of_evidence(repeat, by):
    outcome, words = judge_repeat(repeat, by)
    assert words
    if outcome is not RepeatOutcome.WEDGED:
        return
    assert by.hit_before
    assert repeat.same_ids
    assert repeat.cached == 0
    assert by.ranks == 1
    assert not by.several
    assert by.prefix_caching is not False
    assert repeat.traffic.foreign < by.room
    assert by.repeat_hit is None or repeat.traffic.hits_beyond < by.repeat_hit
