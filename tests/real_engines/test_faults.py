"""Faults played on an engine that is started twice, from the first start to the rows of the page."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from real_engines.counters import engine_page
from real_engines.faults import TURN, fill_cache, play_faults
from real_engines.page import tables
from real_engines.programs import read, served
from real_engines.recipes import Recipe, SmallCache
from real_engines.record import as_text, faults_of

SMALL = SmallCache(context_tokens=1984, blocks=128)  # of 16 tokens


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """What was said of an engine with a rule of its own."""
    simulate = f"{sys.executable} -m exporter simulate --like eagle --port {{port}}"
    recipe = Recipe("sim", "EAGLE", command=simulate, small_cache=SMALL)
    played = play_faults(recipe, SMALL, tmp_path_factory.mktemp("faults"))
    return json.loads(as_text(faults_of(SMALL, played)))


def test_each_fault_has_one_loss_and_its_cause(faults):
    lost = [
        (session["fault"], turn["turn"], turn["loss"]["cause"])
        for session in faults["sessions"]
        for turn in session["turns"]
        if turn["loss"]
    ]
    last = len(faults["sessions"][0]["turns"])
    assert lost == [
        ("reset", TURN, "reset"),
        ("restart", TURN, "restart"),
        ("eviction", last, "evicted"),
    ]


def test_a_session_without_a_fault_follows_each_start(faults):
    found = [(session["fault"], session["before_turn"]) for session in faults["sessions"]]
    last = len(faults["sessions"][0]["turns"])
    assert found == [
        *(("none", None), ("reset", TURN), ("restart", TURN)),
        *(("none", None), ("eviction", last)),
    ]


def test_another_client_sends_as_many_prompts_as_the_recipe_says(tmp_path):
    simulate = f"{sys.executable} -m exporter simulate --port {{port}}"
    small = replace(SMALL, foreign_prompts=2)
    with served(Recipe("sim", "plain", command=simulate), tmp_path / "engine.log") as url:
        fill_cache(url, small)
        counted = engine_page(read(f"{url}/metrics")).counters
    assert counted["prompt_tokens"] == pytest.approx(2 * small.foreign_tokens, rel=0.05)
    assert counted["hit_tokens"] < small.foreign_tokens / 2, "the prompts differ at their start"


def test_the_page_shows_each_fault_beside_what_the_rule_gives_up(record, faults):
    shown = rows(record | {"kind": "EAGLE", "faults": faults})
    assert [row[2] for row in shown] == [
        f"`/reset_prefix_cache`, before turn {TURN}",
        f"restart, before turn {TURN}",
        "another client, cache of 128 blocks, before turn 8",
    ]
    assert [row[4] for row in shown] == ["`reset`", "`restart`", "`evicted`"]
    assert [row[5] for row in shown] == ["`speculative_decoding` 16"] * 3
    assert [row[6] for row in shown] == ["`speculative_decoding` 112"] * 3
    assert [row[7] for row in shown] == ["stays", "found again", "stays"]
    assert [row[8] for row in shown] == ["none"] * 3
    reset, restart, _ = (row[3].split(" of ") for row in shown)
    assert reset[0] == reset[1]
    assert restart[0] == restart[1]


def rows(record):
    """The rows of the table of faults."""
    table = tables([record]).partition("### Faults")[2]
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def session(**changed):
    rule = {"unit_tokens": 32, "dropped_blocks": 1, "answers_kept": True, "lookahead_tokens": 0}
    found = {"turn": 5, "cached_tokens": 64, "attainable_cached_tokens": 96, "rule_losses": []}
    found["loss"] = {"tokens": 32, "cause": "evicted"}
    base = {"fault": "eviction", "before_turn": 5, "rule_before": rule, "reuse_rule": dict(rule)}
    return base | {"notices": [], "turns": [found]} | changed


@pytest.mark.parametrize(
    ("part", "before", "after", "said"),
    [
        ("answers_kept", True, True, "stays"),
        ("answers_kept", None, False, "stays"),  # it was open
        ("answers_kept", True, None, "no longer known: answers_kept"),
        ("unit_tokens", 32, 64, "another: unit_tokens"),
        ("lookahead_tokens", 0, 4, "another: lookahead_tokens"),
    ],
)
def test_a_rule_that_a_fault_changed_is_said(record, part, before, after, said):
    one = session()
    one["rule_before"][part], one["reuse_rule"][part] = before, after
    (row,) = rows(record | {"faults": {"blocks": 64, "sessions": [one]}})
    assert row[7] == said


def test_what_is_not_known_of_a_fault_is_said(record):
    open_turn = {
        "turn": 5,
        "cached_tokens": 0,
        "attainable_cached_tokens": None,
        "loss": None,
        "rule_losses": [],
    }
    ended = session(turns=[], reuse_rule=None)
    played = [session(turns=[open_turn]), ended]
    first, second = rows(record | {"faults": {"blocks": 64, "sessions": played}})
    assert first[3:5] == ["unknown", "none"]
    assert second[3:8] == ["unknown", "none", "none", "none", "unknown"]


def test_a_fault_that_had_nothing_to_take_says_why(record):
    (turn,) = session()["turns"]
    turn |= {"cached_tokens": 0, "attainable_cached_tokens": 0, "loss": None}
    played = [session(turns=[turn]), session(turns=[turn], notices=["prefix_unstable"])]
    first, second = rows(record | {"faults": {"blocks": 64, "sessions": played}})
    assert first[3:5] == ["nothing was attainable", "none"]
    assert second[3:5] == ["nothing was attainable: the prompt had changed", "none"]


def test_a_loss_at_another_turn_than_that_of_the_fault_is_said(record):
    turns = session()["turns"]
    other = {**turns[0], "turn": 6, "loss": {"tokens": 640, "cause": "unexplained"}}
    (row,) = rows(record | {"faults": {"blocks": 64, "sessions": [session(turns=[*turns, other])]}})
    assert row[3:5] == ["32 of 96", "`evicted`"]
    assert row[8] == "`unexplained` 640"


def test_an_engine_whose_faults_cannot_be_shown_says_why(record):
    (row,) = rows(record | {"faults": {"reason": "caching is off"}})
    assert row[2] == "not played: caching is off"
    assert set(row[3:]) == {""}


def test_an_engine_whose_faults_were_not_played_has_no_row(record):
    assert rows(record) == []
