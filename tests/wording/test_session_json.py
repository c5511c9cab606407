"""The JSON of a session: its keys, their order and their values."""

from __future__ import annotations

import json
from dataclasses import replace

from publish_records import TURNS, UNSTABLE, failed_session, session, turn

from exporter.model.reuse import ReuseRule
from exporter.model.session import Notice
from exporter.wording.session_json import session_json

TOP = ("target", "scenario", "simulated", "started", "failure", "turns")
TURN = (
    *("turn", "prompt_tokens", "completion_tokens", "cached_tokens", "ideal_cached_tokens"),
    *("hit_ratio", "efficiency_ratio", "tokens_saved", "ttft_seconds", "latency_seconds"),
)


def test_a_session_has_the_promised_keys_in_their_order():
    shape = session_json(session(*TURNS))
    assert tuple(shape)[: len(TOP)] == TOP
    assert tuple(shape["turns"][0])[: len(TURN)] == TURN


def test_a_finished_session_says_what_was_measured():
    shape = json.loads(json.dumps(session_json(session(*TURNS, notices=frozenset(Notice)))))
    assert shape["started"] == "2026-01-01T00:00:00.250Z"
    assert shape["failure"] is None
    assert shape["simulated"] is False
    assert shape["notices"] == sorted(str(notice) for notice in Notice)
    assert shape["turns"][2] == {
        "turn": 3,
        "prompt_tokens": 1500,
        "completion_tokens": 32,
        "cached_tokens": 1024,
        "ideal_cached_tokens": 1280,
        "hit_ratio": 1024 / 1500,
        "efficiency_ratio": 0.8,
        "tokens_saved": 1024,
        "ttft_seconds": 0.125,
        "latency_seconds": 1.5,
        "loss": {
            "tokens": 256,
            "cause": "unexplained",
            "evidence": "caching is on and the engine was not restarted",
        },
        "cold_ttft_seconds": None,
        "ttft_saved_seconds": None,
        "cached_tokens_source": None,
        "attainable_cached_tokens": 1280,
        "rule_losses": [],
        "replica": None,
        "request_id": None,
        "external_cached_tokens": None,
    }


def test_what_is_unknown_is_null():
    shape = session_json(session(turn(1, None, None, None, completion=None, ttft=None)))
    unknown = {key for key, value in shape["turns"][0].items() if value is None}
    more = {"loss", "cold_ttft_seconds", "ttft_saved_seconds", "cached_tokens_source"}
    more |= {"attainable_cached_tokens", "replica", "request_id", "external_cached_tokens"}
    assert unknown == {*TURN, *more} - {"turn", "latency_seconds"}


def test_what_the_reuse_rule_gives_up_comes_after_the_keys_of_earlier_versions():
    rule = ReuseRule(16, dropped_blocks=1, answers_kept=None, lookahead_tokens=0)
    played = session(TURNS[0], turn(2, 1250, 976, 992, gives_up=16), model="tiny")
    shape = session_json(replace(played, reuse_rule=rule))
    later = shape["turns"][1]
    newest = ("cached_tokens_source", "attainable_cached_tokens", "rule_losses", "replica")
    newest += ("request_id", "external_cached_tokens")
    assert tuple(later)[-7:] == ("ttft_saved_seconds", *newest)
    assert later["attainable_cached_tokens"] == 976
    assert later["efficiency_ratio"] == 1
    assert later["loss"] is None
    assert later["rule_losses"] == [{"tokens": 16, "cause": "speculative_decoding"}]
    assert shape["reuse_rule"] == {
        "unit_tokens": 16,
        "dropped_blocks": 1,
        "answers_kept": None,
        "lookahead_tokens": 0,
    }
    assert session_json(played)["reuse_rule"] is None


def test_a_failed_session_says_where_and_why_and_keeps_its_turns():
    shape = session_json(failed_session(*TURNS[:1]))
    assert shape["failure"] == {
        "reason": "connection_refused",
        "detail": "127.0.0.1:8000 refused the connection",
        "turn": 2,
        "request_id": None,
    }
    assert len(shape["turns"]) == 1


def test_the_place_of_a_prefix_break_is_written_without_its_text():
    shape = session_json(session(*TURNS, prefix=UNSTABLE, extra_tokens=9))
    assert shape["prefix"] == {
        "stable": False,
        "turns_compared": 2,
        "first_break": {
            "turn": 2,
            "token_index": 14,
            "sequence_tokens": 1032,
            "reason": "system_prompt_moved",
            "message": 1,
            "role": "system",
        },
    }
    assert shape["extra_tokens"] == 9
    assert "careful" not in json.dumps(shape)
    assert session_json(session(*TURNS, prefix=None))["prefix"] is None
