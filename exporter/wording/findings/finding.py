"""A test of `check` and what it found: passed, failed or unknown, with evidence and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model.engine import EngineInfo


class CheckTest(StrEnum):
    """The tests of `check`, in the order of its output."""

    REACHABLE = "reachable"
    MODEL = "model"
    VERSION = "version"
    METRICS = "metrics"
    FLAGS = "flags"
    PREFIX_CACHING = "prefix_caching"
    MATCH_UNIT = "match_unit"
    AWAKE = "awake"  # only for an engine that sleeps or is paused
    ONE_ENGINE = "one_engine"
    USAGE_DETAILS = "usage_details"
    TOKEN_IDS = "token_ids"  # noqa: S105 - a test, not a secret
    COLD_START = "cold_start"
    REUSE_RULE = "reuse_rule"
    SECOND_TURN = "second_turn"
    PREFIX_STABLE = "prefix_stable"
    ISOLATION = "isolation"
    WEDGE = "wedge"
    FOOTPRINT = "footprint"
    KV_EVENTS = "kv_events"  # only with kv_events_url


class Verdict(StrEnum):
    """Unknown is no failure: the test could not be made, and the evidence says why."""

    PASS = "pass"  # noqa: S105 - a verdict, not a secret
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One test. `remedy` says what to do; None if it passed or no remedy is known."""

    name: CheckTest
    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All tests of one engine. `started_time` is Unix time."""

    url: str
    started_time: float
    duration_seconds: float
    info: EngineInfo | None
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether no test failed."""
        return not any(one.verdict is Verdict.FAIL for one in self.findings)


def passed(name: CheckTest, evidence: str) -> Finding:
    return Finding(name, Verdict.PASS, evidence)


def failed(name: CheckTest, evidence: str, remedy: str | None = None) -> Finding:
    return Finding(name, Verdict.FAIL, evidence, remedy)


def unknown(name: CheckTest, evidence: str, remedy: str | None = None) -> Finding:
    return Finding(name, Verdict.UNKNOWN, evidence, remedy)


UNREPORTED = "the server does not report how many tokens were cached"
TRANSFER = "usage counts tokens from another engine as cached"
