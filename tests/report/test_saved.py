"""Reading saved results, and the errors for an invalid file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from comparison_records import played, with_controls
from publish_records import EAGLE, EAGLE_TURNS, failed_session, session

from exporter.errors import ConfigError
from exporter.report.comparison.facts import cold_sides, side_of
from exporter.report.saved import check_same_scenario, read_sessions
from exporter.wording.session_json import session_json


def text_of(*sessions) -> str:
    return "\n".join(json.dumps(session_json(one), indent=2) for one in sessions)


@pytest.mark.parametrize(
    "one",
    [played(), with_controls(played()), failed_session(), session(*EAGLE_TURNS, reuse_rule=EAGLE)],
)
def test_a_result_read_back_compares_like_the_original(one):
    (read,) = read_sessions("a.json", text_of(one))
    assert side_of("A", "a", [read]) == side_of("A", "a", [one])
    assert cold_sides("a", [read]) == cold_sides("a", [one])
    assert read.failure == one.failure
    assert read.reuse_rule == one.reuse_rule


def test_a_file_may_hold_several_results_one_after_another():
    sessions = read_sessions("a.json", text_of(played(2), played(0), played(1)))
    assert [each.started_time for each in sessions] == sorted(
        played(n).started_time for n in range(3)
    )


def test_the_answer_of_the_api_is_a_valid_file():
    answer = json.dumps({"sessions": [session_json(played(n)) for n in (1, 0)]})
    assert len(read_sessions("a.json", answer)) == 2


def test_unknown_keys_of_a_later_version_are_ignored():
    told = session_json(played()) | {"something": "new"}
    assert len(read_sessions("a.json", json.dumps(told))) == 1


def test_a_result_from_before_reuse_rules_has_an_unknown_efficiency():
    told = session_json(played())
    del told["reuse_rule"]
    for place, each in enumerate(told["turns"]):
        del each["attainable_cached_tokens"], each["rule_losses"]
        each |= {"efficiency_ratio": 0.98 if place else None}
        each["loss"] = {"tokens": 16, "cause": "evicted", "evidence": "by the ideal"}
    (read,) = read_sessions("a.json", json.dumps(told))
    assert read.reuse_rule is None
    assert {turn.attainable_cached_tokens for turn in read.turns} == {None}
    assert {(turn.efficiency_ratio, turn.loss) for turn in read.turns} == {(None, None)}
    assert [turn.ideal_cached_tokens for turn in read.turns[1:]] == [992, 1232, 1488]
    assert side_of("A", "a", [read]).spreads == side_of("A", "a", [played()]).spreads


def changed(**fields) -> str:
    return json.dumps(session_json(played()) | fields)


def broken_turn(**fields) -> str:
    told = session_json(played())
    told["turns"][1] |= fields
    return json.dumps(told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json: the file has no session"),
        ("turn,prompt\n1,2", "a.json: not JSON: "),
        ("[" * 100_000, "a.json: not a saved result"),
        ("{}", "a.json: turns is missing: this is not what `probe --json` writes"),
        ('{"url": "x", "tests": []}', "a.json: turns is missing"),
        ("[1]", "a.json: turns is missing"),
        ('{"sessions": []}', "a.json: the file has no session"),
        ('{"sessions": [{}]}', r"a.json: sessions\[0\].turns is missing"),
        (changed(turns=3), "a.json: turns: Input should be a valid array"),
        (changed(started="yesterday"), "a.json: started: "),
        (broken_turn(ttft_seconds="fast"), r"a.json: turns\[1\].ttft_seconds: "),
        (broken_turn(ttft_seconds=-1), r"a.json: turns\[1\].ttft_seconds: "),
        (broken_turn(hit_ratio=1.5), r"a.json: turns\[1\].hit_ratio: "),
        (broken_turn(cached_tokens=1.5), r"a.json: turns\[1\].cached_tokens: "),
        (broken_turn(turn=0), r"a.json: turns\[1\].turn: "),
        (broken_turn(turn=100_001), "a.json: turns: a turn has a number above 100,000"),
        (broken_turn(loss=3), r"a.json: turns\[1\].loss: Input should be an object"),
        (changed(interrupted=True), "a.json: interrupted is true"),
        (text_of(played(), replace(played(), scenario="tool-trace")), "a.json: scenario is "),
        (text_of(played(), replace(played(), target="other")), "a.json: target is "),
        (text_of(played()) + "{}", r"a.json \(result 2\): turns is missing"),
    ],
)
def test_an_error_names_file_and_field(text, message):
    with pytest.raises(ConfigError, match=message):
        read_sessions("a.json", text)


def test_two_files_of_different_scenarios_are_not_compared():
    files = {"a.json": [played()], "b.json": [replace(played(), scenario="tool-trace")]}
    with pytest.raises(ConfigError) as caught:
        check_same_scenario(files)
    assert str(caught.value) == (
        'b.json: scenario is "tool-trace", but a.json has "coding-agent": only sessions of the '
        "same scenario can be compared"
    )
