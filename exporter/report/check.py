"""What `check` found, for a terminal and as JSON. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from exporter.model.json_fields import rfc3339
from exporter.wording.findings.finding import Verdict

if TYPE_CHECKING:
    from exporter.wording.findings.finding import CheckReport, Finding

WIDTH = 80
_WORDS = {Verdict.PASS: "pass", Verdict.FAIL: "FAIL", Verdict.UNKNOWN: "unknown"}
_VERDICT, _NAME = 8, 16
_INDENT = " " * (_VERDICT + _NAME)


def finding_lines(finding: Finding, width: int = WIDTH) -> list[str]:
    """One test: verdict, name and evidence, and below them the remedy if there is one."""
    head = f"{_WORDS[finding.verdict]:<{_VERDICT}}{finding.name:<{_NAME}}"
    lines = _wrapped(head, finding.evidence, width)
    if finding.remedy is not None:
        lines += _wrapped(f"{_INDENT}-> ", finding.remedy, width)
    return lines


def closing_line(report: CheckReport) -> str:
    """How many passed, failed and are unknown."""
    verdicts = [finding.verdict for finding in report.findings]
    counts = [f"{verdicts.count(one)} {word.lower()}" for one, word in _COUNTED.items()]
    simulated = " The engine is SIMULATED." if report.info and report.info.simulated else ""
    return f"{len(verdicts)} tests: {', '.join(counts)}.{simulated}"


_COUNTED = {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.UNKNOWN: "unknown"}


def check_report_json(report: CheckReport) -> dict[str, Any]:
    """Keys may be added at the end; none is ever renamed or removed. Unknown is null."""
    info = report.info
    return {
        "url": report.url,
        "well": report.healthy,
        "tests": [
            {
                "name": finding.name,
                "verdict": finding.verdict,
                "evidence": finding.evidence,
                "remedy": finding.remedy,
            }
            for finding in report.findings
        ],
        "model": info.model if info else None,
        "engine_version": info.version if info else None,
        "simulated": info.simulated if info else None,
        "started": rfc3339(report.started_time),
        "duration_seconds": report.duration_seconds,
    }


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=head,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,  # a flag stays in one piece
    ) or [head.rstrip()]
