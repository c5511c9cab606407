"""Several sessions of `probe`: their spread, their table and their JSON."""

from __future__ import annotations

import io
import json

import pytest
from publish_records import TURNS, failed_session, session, turn
from rich.console import Console

from exporter.report.saved import read_sessions
from exporter.report.session.json import probe_json, sessions_json
from exporter.report.session.several import session_line, sessions_report, spreads

URL = "http://127.0.0.1:8000"
LOST = session(*TURNS)
WHOLE = session(turn(1, 1000, 0, 0, ttft=0.6), turn(2, 1250, 992, 992, ttft=0.1))
UNKNOWN = session(turn(1, 1000, None, None, ttft=None), turn(2, 1250, None, None, ttft=0.2))


def drawn(*results, width=80, interrupted=False) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(sessions_report(results, URL, interrupted=interrupted))
    return console.file.getvalue()


def test_the_spread_is_over_the_finished_sessions_and_leaves_out_what_is_unknown():
    found = spreads([LOST, WHOLE, UNKNOWN, failed_session(*TURNS)])
    assert found["efficiency_ratio"].count == 2
    assert found["efficiency_ratio"].median == (2016 / 2272 + 1) / 2
    assert found["hit_ratio"].median == (2016 / 3750 + 992 / 2250) / 2
    assert found["first_ttft_seconds"].median == pytest.approx(0.55)
    assert found["ttft_seconds"].count == 3
    assert found["ttft_seconds"].median == 0.1
    assert "hit_ratio" not in spreads([UNKNOWN])


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_fits_and_breaks_no_word(width):
    lines = drawn(LOST, WHOLE, UNKNOWN, failed_session(), width=width).splitlines()
    assert all(len(line) <= width for line in lines)
    rows = [line.split() for line in lines]
    assert ["session", "ratio", "efficiency", "turn", "1", "later", "latency"] in rows
    assert ["1", "53.8", "%", "88.7", "%", "500", "ms", "93.8", "ms", "1.75", "s"] in rows
    assert ["3", "–", "–", "–", "200", "ms", "1.50", "s"] in rows  # noqa: RUF001 - a dash
    assert ["4", "failed"] in rows
    assert ["median", "48.9", "%", "94.4", "%", "550", "ms", "100", "ms", "1.50", "s"] in rows


def test_the_verdict_is_that_of_the_worst_session():
    assert "2 sessions. The worst is session 2:" in drawn(WHOLE, LOST)
    failed = " ".join(drawn(LOST, failed_session()).split())
    assert "2 sessions, 1 failed. The worst is session 2: The session failed" in failed
    assert "Interrupted. 2 sessions. All are alike:" in drawn(LOST, LOST, interrupted=True)


def test_without_a_finished_session_there_is_no_table():
    told = drawn(failed_session())
    assert "median" not in told
    assert "1 session, which failed:" in told


def test_one_line_tells_a_session():
    assert session_line(7, WHOLE) == (
        "00:00:00  session 7: 44.1 % from cache, efficiency 100 %, TTFT 100 ms"
    )
    assert "session 8: failed: " in session_line(8, failed_session())


def test_the_json_of_a_session_has_its_url_sums_and_verdict():
    shape = json.loads(json.dumps(probe_json(LOST, URL, interrupted=False)))
    assert (shape["url"], shape["interrupted"]) == (URL, False)
    assert (shape["hit_ratio"], shape["efficiency_ratio"]) == (2016 / 3750, 2016 / 2272)
    assert shape["totals"] == {
        "turns": 3,
        "prompt_tokens": 3750,
        "completion_tokens": 96,
        "cached_tokens": 2016,
        "external_cached_tokens": None,
        "ideal_cached_tokens": 2272,
        "attainable_cached_tokens": 2272,
        "lost_tokens": 256,
        "lost_by": {"unexplained": 256},
        "rule_lost_by": {},
    }
    assert shape["verdict"].startswith("The cache served 2,016 of 3,750 prompt tokens")
    assert (probe_json(UNKNOWN, URL, interrupted=False)["efficiency_ratio"]) is None


def test_the_json_of_several_sessions_can_be_compared():
    text = json.dumps(sessions_json([LOST, WHOLE], URL, interrupted=False))
    assert json.loads(text)["spreads"]["efficiency_ratio"]["count"] == 2
    assert [len(each.turns) for each in read_sessions("on.json", text)] == [3, 2]
