"""The text of a session for an HTTP client."""

from __future__ import annotations

from dataclasses import replace

from publish_records import TURNS, session

from exporter.model.session import BreakReason, PrefixBreak, PrefixStability
from exporter.report.session.plain import plain_report


def test_it_has_a_row_for_each_turn_and_the_verdict():
    text = plain_report(session(*TURNS))
    assert "local" in text
    rows = [line for line in text.splitlines() if line.split()[:1] in ([str(n)] for n in range(99))]
    assert len(rows) == len(TURNS)
    assert "The cache served" in text
    assert "\x1b" not in text


def test_it_contains_no_text_of_a_prompt():
    found = PrefixBreak(
        *(2, 40, 90, BreakReason.VALUE_CHANGED, 1, "system"),
        before="the secret plan is",
        earlier="tuesday",
        later="wednesday",
    )
    result = replace(session(*TURNS), prefix=PrefixStability(False, 1, found))
    text = plain_report(result)
    assert "token 40" in text.replace("\n", " ")
    assert not any(word in text for word in ("secret", "tuesday", "wednesday"))
