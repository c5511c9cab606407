"""Annotations and JUnit reports for pipelines."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from publish_records import STARTED, TURNS, failed_session, session

from exporter.report.pipeline.cases import Case, Suite, check_suite, probe_suite
from exporter.report.pipeline.github import annotation_lines
from exporter.report.pipeline.junit import junit_xml
from exporter.wording.findings.finding import (
    CheckReport,
    CheckTest,
    Verdict,
    failed,
    passed,
    unknown,
)

URL = "http://127.0.0.1:8000"
REPORT = CheckReport(
    url=URL,
    started_time=STARTED,
    duration_seconds=1.5,
    info=None,
    findings=(
        passed(CheckTest.REACHABLE, "it answers"),
        failed(CheckTest.USAGE_DETAILS, "100% unknown", "Start vLLM with a flag."),
        unknown(CheckTest.ISOLATION, "not tried"),
    ),
)


def test_a_failed_test_is_an_error_with_its_remedy_and_an_unknown_one_a_notice():
    assert annotation_lines(check_suite(REPORT)) == [
        "::error title=check%3A usage_details::100%25 unknown. Start vLLM with a flag.",
        "::notice title=check%3A isolation::not tried.",
    ]


def test_line_breaks_and_separators_are_escaped():
    odd = Suite("probe x", 0.0, 0.0, (Case("a,b", Verdict.FAIL, "one\ntwo::three"),))
    assert annotation_lines(odd) == ["::error title=probe%3A a%2Cb::one%0Atwo::three"]


def test_the_junit_report_counts_and_names_the_cases():
    root = ET.fromstring(junit_xml(check_suite(REPORT)))  # noqa: S314 - our own
    assert root.tag == "testsuite"
    assert root.attrib == {
        "name": f"check {URL}",
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "time": "1.500",
        "timestamp": "2026-01-01T00:00:00.250Z",
    }
    assert [case.get("name") for case in root] == ["reachable", "usage_details", "isolation"]
    (failure,) = root.iter("failure")
    assert failure.get("message") == failure.text == "100% unknown. Start vLLM with a flag."
    (skipped,) = root.iter("skipped")
    assert skipped.get("message") == "not tried."


def test_characters_that_xml_cannot_have_are_replaced():
    odd = Suite("probe", 0.0, 0.0, (Case("a", Verdict.FAIL, "\x1b[31m<&\ufffe"),))
    (failure,) = ET.fromstring(junit_xml(odd)).iter("failure")  # noqa: S314 - our own
    assert failure.text == "?[31m<&?"


def test_a_session_and_each_limit_is_a_case():
    suite = probe_suite(
        [session(*TURNS), failed_session()], URL, efficiency_ratio=0.9, hit_ratio=0.5
    )
    assert [(case.name, case.verdict) for case in suite.cases] == [
        ("session 1", Verdict.PASS),
        ("session 1 efficiency", Verdict.FAIL),
        ("session 1 hit ratio", Verdict.PASS),
        ("session 2", Verdict.FAIL),
    ]
    limit = suite.cases[1].text
    assert limit.startswith(
        "The session's efficiency of 88.7 % is below --fail-under-efficiency 0.9."
    )
    assert "256 tokens, unexplained" in limit
    assert "The session failed" in suite.cases[3].text
    assert suite.seconds == 8.5
