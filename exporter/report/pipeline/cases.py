"""What `check` and `probe` found, as test cases of a pipeline. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.wording.findings.finding import Verdict
from exporter.wording.limits import shortfalls
from exporter.wording.verdict import failure_in_words, loss_lines, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.session import SessionResult
    from exporter.wording.findings.finding import CheckReport


@dataclass(frozen=True, slots=True)
class Case:
    """One test case. `text` says what was seen and, where it failed, what to do."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Suite:
    """The cases of one command on one engine. `started_time` is Unix time."""

    name: str
    started_time: float
    seconds: float
    cases: tuple[Case, ...]


def check_suite(report: CheckReport) -> Suite:
    """One case for each test of `check`."""
    cases = [
        Case(one.name, one.verdict, " ".join(filter(None, (_sentence(one.evidence), one.remedy))))
        for one in report.findings
    ]
    return Suite(f"check {report.url}", report.started_time, report.duration_seconds, tuple(cases))


def probe_suite(
    results: Sequence[SessionResult],
    url: str,
    *,
    efficiency_ratio: float | None,
    hit_ratio: float | None,
) -> Suite:
    """One case for each session, and one for each limit of a session that finished."""
    cases = []
    for number, result in enumerate(results, start=1):
        name = f"session {number}"
        cases.append(_session(name, result))
        if result.failure is not None:
            continue
        if efficiency_ratio is not None:
            missed = shortfalls(result, efficiency_ratio=efficiency_ratio, hit_ratio=None)
            cases.append(_limit(f"{name} efficiency", missed, result))
        if hit_ratio is not None:
            missed = shortfalls(result, efficiency_ratio=None, hit_ratio=hit_ratio)
            cases.append(_limit(f"{name} hit ratio", missed, result))
    return Suite(
        f"probe {url}",
        min((one.started_time for one in results), default=0.0),
        sum(one.duration_seconds for one in results),
        tuple(cases),
    )


def _session(name: str, result: SessionResult) -> Case:
    if result.failure is not None:
        return Case(name, Verdict.FAIL, failure_in_words(result))
    return Case(name, Verdict.PASS, verdict(result))


def _limit(name: str, missed: Sequence[str], result: SessionResult) -> Case:
    if not missed:
        return Case(name, Verdict.PASS, "")
    return Case(name, Verdict.FAIL, " ".join([*missed, *loss_lines(result)]))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
