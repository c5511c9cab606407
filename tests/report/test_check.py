"""What `check` prints."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from exporter.model.engine import EngineInfo
from exporter.report.check import WIDTH, check_report_json, closing_line, finding_lines
from exporter.wording.findings.finding import CheckReport, Finding, Verdict

INFO = EngineInfo("tiny", 8192, "0.32.0", simulated=True)
FAILED = Finding("usage_details", Verdict.FAIL, "usage has none", "Start with --enable-it.")
PASSED = Finding("reachable", Verdict.PASS, "http://127.0.0.1:8000 answers")


def report(*findings: Finding, info: EngineInfo | None = INFO) -> CheckReport:
    return CheckReport("http://127.0.0.1:8000", 1_767_225_600.25, 2.5, info, findings)


def test_a_failed_test_has_its_remedy_below_it():
    assert finding_lines(FAILED) == [
        "FAIL    usage_details   usage has none",
        "                        -> Start with --enable-it.",
    ]


def test_the_last_line_counts_the_verdicts_and_says_if_the_engine_is_simulated():
    assert closing_line(report(PASSED, FAILED)) == (
        "2 tests: 1 passed, 1 failed, 0 unknown. The engine is SIMULATED."
    )
    assert "SIMULATED" not in closing_line(report(PASSED, info=None))


def test_the_json_has_the_documented_shape():
    shape = json.loads(json.dumps(check_report_json(report(PASSED, FAILED))))
    assert shape == {
        "url": "http://127.0.0.1:8000",
        "well": False,
        "tests": [
            {
                "name": "reachable",
                "verdict": "pass",
                "evidence": "http://127.0.0.1:8000 answers",
                "remedy": None,
            },
            {
                "name": "usage_details",
                "verdict": "fail",
                "evidence": "usage has none",
                "remedy": "Start with --enable-it.",
            },
        ],
        "model": "tiny",
        "engine_version": "0.32.0",
        "simulated": True,
        "started": "2026-01-01T00:00:00.250Z",
        "duration_seconds": 2.5,
    }


words = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=400)


@given(evidence=words, remedy=st.none() | words, verdict=st.sampled_from(Verdict))
def test_no_line_is_wider_than_the_terminal(evidence, remedy, verdict):
    lines = finding_lines(Finding("prefix_caching", verdict, evidence, remedy))
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].split()[0].lower() == verdict
