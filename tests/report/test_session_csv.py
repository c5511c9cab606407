"""The turns as CSV, read back."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from publish_records import EAGLE_TURNS, TURNS, session, turn

from exporter.report.session.csv import COLUMNS, session_csv
from exporter.wording.session_json import session_json


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_columns_have_the_promised_order():
    assert session_csv(session()).split("\n")[0].split(",") == list(COLUMNS)
    assert rows(session_csv(session())) == []


def test_every_value_equals_that_of_the_json():
    result = session(*TURNS)
    shape = session_json(result)
    for row, told in zip(rows(session_csv(result)), shape["turns"], strict=True):
        assert row["target"] == shape["target"]
        assert row["started"] == shape["started"]
        assert row["simulated"] == "false"
        for name, value in told.items():
            if name in row and not isinstance(value, str):
                assert (None if row[name] == "" else float(row[name])) == value
    assert [row["loss_tokens"] for row in rows(session_csv(result))] == ["", "", "256"]
    assert rows(session_csv(result))[2]["loss_cause"] == "unexplained"


def test_a_line_of_sums_follows_the_turns_of_each_session_if_asked_for():
    text = session_csv(session(*TURNS), session(*TURNS, started=1.0), totals=True)
    told = rows(text)
    assert [row["turn"] for row in told] == ["1", "2", "3", "all"] * 2
    assert told[3] == told[7] | {"started": told[3]["started"]}
    sums = told[3]
    assert (sums["prompt_tokens"], sums["cached_tokens"], sums["loss_tokens"]) == (
        "3750", "2016", "256",
    )  # fmt: skip
    assert float(sums["hit_ratio"]) == 2016 / 3750
    assert float(sums["efficiency_ratio"]) == 2016 / 2272
    assert sums["ttft_seconds"] == ""


def test_an_unknown_sum_is_empty():
    sums = rows(session_csv(session(turn(1, 1000, None, 0)), totals=True))[1]
    assert (sums["turn"], sums["cached_tokens"], sums["hit_ratio"]) == ("all", "", "")


def test_what_the_rule_gives_up_has_a_column_for_each_cause_after_the_old_ones():
    assert COLUMNS[-11:-3] == (
        "cached_tokens_source",
        "attainable_cached_tokens",
        "rule_lost_speculative_decoding_tokens",
        "rule_lost_answer_not_kept_tokens",
        "rule_lost_unit_tokens",
        "rule_lost_store_chunk_tokens",
        "replica",
        "external_cached_tokens",
    )
    unknown = replace(EAGLE_TURNS[2], attainable_cached_tokens=None, rule_losses=())
    _, eagle, open_rule = rows(session_csv(session(*EAGLE_TURNS[:2], unknown)))
    assert [eagle[name] for name in COLUMNS[-10:-5]] == ["960", "32", "0", "0", "0"]
    assert [open_rule[name] for name in COLUMNS[-10:-5]] == [""] * 5
    assert eagle["loss_tokens"] == ""


def test_the_last_columns_are_the_id_of_each_request_the_rank_and_the_api():
    asked = replace(turn(1, 1000, 0, 0), request_id="4bf9")
    first, second = rows(session_csv(session(asked, turn(2, 1250, 0, 0), data_parallel_rank=1)))
    assert COLUMNS[-3:] == ("request_id", "data_parallel_rank", "api")
    assert [first[name] for name in COLUMNS[-3:]] == ["4bf9", "1", "chat_completions"]
    assert [second[name] for name in COLUMNS[-3:]] == ["", "1", "chat_completions"]


def test_unknown_is_empty_and_zero_is_zero():
    row, other = rows(session_csv(session(turn(1, 1000, 0, 0), turn(2, 1000, None, None))))
    assert (row["cached_tokens"], row["hit_ratio"]) == ("0", "0.0")
    assert (other["cached_tokens"], other["hit_ratio"], other["loss_cause"]) == ("", "", "")


@given(model=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")))
def test_a_name_with_commas_quotes_or_newlines_survives(model):
    assert rows(session_csv(session(*TURNS[:1], model=model)))[0]["model"] == model
