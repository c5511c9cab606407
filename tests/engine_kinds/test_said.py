"""What `check` and `probe` say of each kind of server, beside what is right."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from right_answers import OPENING, RIGHT
from served import Said

from exporter.simulator.engine_kinds.table import PROFILES
from exporter.simulator.faults.behaviours import DropLastUnit

pytestmark = pytest.mark.xdist_group("engine kinds")  # each kind is asked once for all tests
each_profile = pytest.mark.parametrize("name", RIGHT)


def test_a_right_answer_is_known_for_every_profile():
    assert set(RIGHT) == set(PROFILES), "tests/engine_kinds/right_answers.py has other profiles"


@each_profile
def test_check_fails_what_is_wrong_and_nothing_else(said, name):
    right, heard = RIGHT[name], said(name)
    # Engines that do not tell the size of their cache leave the footprint unknown, which is no fault.
    assert (heard.verdicts("fail"), heard.verdicts("unknown") - right.unknown - {"footprint"}) == (
        right.fails,
        set(),
    )
    assert heard.check.code == (1 if right.fails else 0)


@each_profile
def test_probe_knows_what_can_be_known(said, name):
    right, heard = RIGHT[name], said(name)
    session = heard.session
    assert (session["failure"] or {}).get("reason") == right.failure
    assert heard.probe.code == (0 if right.failure is None else 1)
    turns = session["turns"]
    if right.failure is not None:
        return
    assert len(turns) == 8
    assert all(turn["ttft_seconds"] > 0 for turn in turns)
    cached = [turn["cached_tokens"] for turn in turns]
    ideal = [turn["ideal_cached_tokens"] for turn in turns]
    match right.cached:
        case "ideal":
            assert cached == ideal
            assert cached[0] == 0 < min(cached[1:])
        case "attainable":
            assert cached == [turn["attainable_cached_tokens"] for turn in turns]
            assert cached[0] == 0 < min(cached[1:])
            assert None not in ideal
        case "less":
            assert None not in cached
            assert cached[0] == 0
        case "hidden":
            assert (cached[0], set(cached[1:])) == (0, {None})
        case "unknown":
            assert set(cached) == {None}


@each_profile
def test_a_session_finds_the_reuse_rule_and_names_what_it_gives_up(said, name):
    right, session = RIGHT[name], said(name).session
    expected = None if right.rule is None else asdict(right.rule)
    assert session["reuse_rule"] == expected
    given_up = {part["cause"] for turn in session["turns"] for part in turn["rule_losses"]}
    # Which answers lose their last tokens is random.
    assert given_up == right.gives_up or (right.rule and right.rule.lookahead_tokens)


@each_profile
def test_a_turn_that_hits_what_the_rule_allows_has_efficiency_1_and_no_loss(said, name):
    if RIGHT[name].cached not in ("ideal", "attainable"):
        return
    for turn in said(name).session["turns"][1:]:
        assert (turn["efficiency_ratio"], turn["loss"]) == (1.0, None)


@each_profile
def test_a_loss_has_a_cause_that_the_evidence_does_not_rule_out(said, name):
    losses = [turn["loss"] for turn in said(name).session["turns"] if turn["loss"]]
    assert {loss["cause"] for loss in losses} <= RIGHT[name].causes


@each_profile
def test_notices_say_what_must_be_known_and_nothing_false(said, name):
    assert set(said(name).session["notices"]) - OPENING == RIGHT[name].notices


@each_profile
def test_nothing_is_said_that_is_not_so(said, name):
    words = said(name).words
    assert not [false for false in RIGHT[name].never if false in words]


SILENT_ABOUT_ZERO = ["vllm-0.22.1", "vllm-0.9.2", "omits-empty"]


@pytest.mark.parametrize("name", SILENT_ABOUT_ZERO)
def test_a_control_is_cold_where_a_hit_of_0_is_left_out(said, name):
    turns = said(name).cold_probe.json["turns"]
    for turn in turns[1:]:
        assert turn["cold_ttft_seconds"] is not None
        assert turn["ttft_saved_seconds"] is not None


def test_lookups_that_count_again_are_nobody_elses_traffic(loop):
    heard = Said(loop, "recounted-lookups", behaviours=(DropLastUnit(),))
    losses = [turn["loss"] for turn in heard.session["turns"] if turn["loss"]]
    assert losses == []
    assert heard.session["reuse_rule"]["dropped_blocks"] == 1
    assert not any(word in heard.words for word in ("evicted", "other requests used"))


@pytest.mark.parametrize("name", ["eagle", "pd-decode", "router"])
def test_the_answer_is_the_same_with_an_answer_shorter_than_a_unit(loop, name):
    """A profile is no script for one scenario: another one meets the same server."""
    heard = Said(loop, name, answer_tokens=4)
    assert heard.verdicts("fail") == RIGHT[name].fails
