"""docs/engines.md: its tables are those that the records give, and each cell says what it knows."""

from __future__ import annotations

import copy
import re

import pytest

from real_engines.__main__ import PAGE, records
from real_engines.page import BEGIN, END, renewed, tables


def rows(*shown):
    """The rows of each table, as lists of cells, without heads."""
    found = [line for line in tables(shown).splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found]
    return [row for row in cells if row[0] not in ("vLLM", "---")]


def test_the_page_is_what_the_records_give():
    page = PAGE.read_text("utf-8")
    assert renewed(page, records()) == page, "run make engines-page"


def test_no_record_names_the_machine_that_measured():
    for record in records():
        found = re.findall(r"127\.0\.0\.1|/(?!v1/)\w+/\w+/\w+", str(record))
        assert not found, f"{record['name']} names {found}"


def test_no_real_engine_lost_tokens_without_a_fault():
    """Turns of several ranks change ranks, which needs no fault."""
    unexplained = [
        (record["name"], session["fault"], turn["turn"], turn["loss"]["cause"])
        for record in records()
        for session in record.get("faults", {}).get("sessions", ())
        for turn in session["turns"]
        if turn["loss"] and turn["turn"] != session["before_turn"]
        if turn["loss"]["cause"] != "other_rank"
    ]
    assert unexplained == []


def test_only_the_tables_are_written_again(record):
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = renewed(page, [record])
    assert once.startswith("before\n")
    assert once.endswith(f"{END}\nafter\n")
    assert "old" not in once
    assert renewed(once, [record]) == once
    with pytest.raises(ValueError, match="marks"):
        renewed("no marks", [record])


def test_an_engine_of_which_all_is_known(record):
    known, reused, gaps = rows(record)
    assert known == [
        *("0.32.0", "plain", "usage", "reported", "in the answer", "isolate", "equal", "0"),
    ]
    assert reused == [
        *("0.32.0", "plain", "unknown", "4,288", "unknown", "4,288", "100 % at each turn"),
        *("none", "none", "none"),
    ]
    assert gaps == ["0.32.0", "plain", "nothing"]


def test_a_rule_and_what_it_takes_are_in_words(record):
    session = record["sessions"][0]
    session["reuse_rule"] = {
        "unit_tokens": 32,
        "dropped_blocks": 1,
        "answers_kept": False,
        "lookahead_tokens": 2,
    }
    for turn in session["turns"][1:]:
        turn["attainable_cached_tokens"] = turn["ideal_cached_tokens"] - 32
        turn["loss"] = {"tokens": 32, "cause": "evicted", "evidence": "-"}
        turn["rule_losses"] = [
            {"tokens": 32, "cause": "speculative_decoding"},
            {"tokens": 1, "cause": "unit"},
        ]
    _, reused, _ = rows(record)
    assert reused[2] == (
        "unit 32, lacks the last block, answers are not kept, up to 2 tokens at the end of a prefix "
        "may not count"
    )
    assert reused[4] == "4,224 (1 turns unknown)"
    assert reused[7] == "`speculative_decoding` 64, `unit` 2"
    assert reused[8] == "`evicted` 64"


def test_a_part_of_the_rule_that_is_not_clear_is_said(record):
    parts = {"unit_tokens": 32, "dropped_blocks": None, "answers_kept": None, "lookahead_tokens": 0}
    record["sessions"][0]["reuse_rule"] = parts
    _, reused, _ = rows(record)
    assert reused[2] == "unit 32, may lack the last block, answers may not be kept"
    clear = {"dropped_blocks": 0, "answers_kept": True}
    for unit, said in ((32, "unit 32"), (None, "unit unknown")):
        record["sessions"][0]["reuse_rule"] = parts | clear | {"unit_tokens": unit}
        _, reused, _ = rows(record)
        assert reused[2] == said


@pytest.mark.parametrize(
    ("notice", "column", "said"),
    [
        ("salt_ignored", 5, "ignored; random text instead"),
        ("salt_refused", 5, "refused; random text instead"),
        ("token_ids_missing", 4, "missing"),
        ("token_ids_recovered", 4, "`/tokenize` and logprobs"),
        ("transfer", 2, "a transfer, no hit"),
    ],
)
def test_a_notice_shows_in_its_column(record, notice, column, said):
    record["sessions"][0]["notices"] = [notice]
    known, *_ = rows(record)
    assert known[column] == said


@pytest.mark.parametrize(
    ("sources", "cached"),
    [
        (["no_hits", "usage", "usage"], "usage; 0 from counters"),
        (["counters", "counters", "counters"], "counters"),
        ([None, "usage", "usage"], "usage; not at every turn"),
        ([None, None, None], "unknown"),
    ],
)
def test_where_cached_tokens_come_from(record, sources, cached):
    for turn, source in zip(record["sessions"][0]["turns"], sources, strict=True):
        turn["cached_tokens_source"] = source
    known, *_ = rows(record)
    assert known[2] == cached


@pytest.mark.parametrize(
    ("new", "repeated", "said"),
    [(0, 32, "reported"), (None, 32, "left out"), (None, None, "unknown"), (32, 32, "unknown")],
)
def test_whether_a_hit_of_0_is_reported(record, new, repeated, said):
    record["told"] = {"new": new, "repeated": repeated}
    known, *_ = rows(record)
    assert known[3] == said


def test_counters_are_equal_within_a_token(record):
    record["counters"]["hit_tokens"]["exporter"] += 1
    assert rows(record)[0][6] == "equal"
    record["counters"]["hit_tokens"]["exporter"] += 1
    assert rows(record)[0][6] == "differ: hit 4,290 for 4,288"
    record["counters"]["hit_tokens"] = {"engine": None, "exporter": None}
    assert rows(record)[0][6] == "equal; it does not count hit"
    record["counters"]["hit_tokens"] = {"engine": 5.0, "exporter": None}
    assert rows(record)[0][6] == "differ: hit nothing for 5"


def test_what_is_not_known_has_its_reason(record):
    record["check"] = {
        "exit_code": 1,
        "tests": [
            {"name": "usage_details", "verdict": "fail", "evidence": "no details", "remedy": "a"},
            {"name": "wedge", "verdict": "unknown", "evidence": "no hits", "remedy": None},
            {"name": "second_turn", "verdict": "unknown", "evidence": "no hits", "remedy": None},
        ],
    }
    record["note"] = "It is old."
    record["sessions"][0]["turns"][1]["ideal_cached_tokens"] = None
    record["sessions"][0]["failure"] = {"reason": "x", "detail": "HTTP 500: no", "turn": 4}
    known, _, gaps = rows(record)
    assert (known[5], known[7]) == ("unknown", "1: `usage_details` failed")
    assert gaps[2] == (
        "`usage_details` fail: no details. `wedge`, `second_turn` unknown: no hits. A session "
        "failed: HTTP 500: no. The ideal of 1 of 3 turns. It is old."
    )


def test_plain_engines_come_first_by_version(record):
    def like(version, kind):
        return copy.deepcopy(record) | {"version": version, "kind": kind}

    given = [like("0.32.0", "EAGLE"), like("0.10.2", "plain"), like("0.9.2.post2", "plain")]
    shown = [row[:2] for row in rows(*given)[:3]]
    assert shown == [["0.9.2.post2", "plain"], ["0.10.2", "plain"], ["0.32.0", "EAGLE"]]


def test_an_engine_that_answers_no_session_shows_nothing_as_known(record):
    for session in record["sessions"]:
        session["turns"] = []
    known, reused, _ = rows(record)
    assert known[2:5] == ["unknown", "reported", "unknown"]
    assert reused[3:7] == ["unknown"] * 4
