"""`check`: every test once against one engine, with an isolation test and one session."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.errors import EngineUnavailableError
from exporter.model.failure import FailureReason
from exporter.probe.isolation import run_isolation_test
from exporter.probe.replicas import own_info
from exporter.probe.session.runner import SessionRunner
from exporter.wording import engine_findings, findings
from exporter.wording.findings import CheckReport, CheckTest, Finding
from exporter.wording.notices import FAILURE_ADVICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model.engine import EngineInfo
    from exporter.probe.engine_requests import EngineRequests
    from exporter.probe.session.plan import SessionPlan

TESTS = tuple(test for test in CheckTest if test is not CheckTest.AWAKE)
"""The tests of every engine."""

_ANSWERED = frozenset(
    {
        *(FailureReason.UNAUTHORIZED, FailureReason.MODEL_NOT_FOUND, FailureReason.NO_MODEL),
        *(FailureReason.SERVER_ERROR, FailureReason.OVERLOADED, FailureReason.BAD_REQUEST),
        *(FailureReason.PROTOCOL, FailureReason.PAUSED),
    }
)
"""Failures that show that something answers at the address."""


class Check:
    """Tests one engine. `on_finding` gets each finding as soon as it is known."""

    def __init__(
        self,
        plan: SessionPlan,
        requests: EngineRequests,
        new_salt: Callable[[], str],
        *,
        on_finding: Callable[[Finding], None] = lambda _finding: None,
    ) -> None:
        self._plan = plan
        self._requests = requests
        self._client = requests.client
        self._new_salt = new_salt
        self._on_finding = on_finding
        self._found: list[Finding] = []

    async def run(self) -> CheckReport:
        """Run every test. Tests that an earlier failure makes impossible are unknown."""
        clock = self._requests.clock
        started_time, started_at = clock.time(), clock.monotonic()
        self._found = []
        info: EngineInfo | None = None
        try:
            info = await self._client.info()
        except EngineUnavailableError as error:
            self._refused(error)
        else:
            self._add(findings.passed(CheckTest.REACHABLE, f"{self._client.url} answers"))
            info = await self._test(info)
        return CheckReport(
            url=self._client.url,
            started_time=started_time,
            duration_seconds=clock.monotonic() - started_at,
            info=info,
            findings=tuple(self._found),
        )

    async def _test(self, info: EngineInfo) -> EngineInfo:
        view = await self._requests.observe()
        info = own_info(info, view)
        self._add(
            engine_findings.of_model(info),
            engine_findings.of_version(info, view),
            engine_findings.of_metrics(view),
            engine_findings.of_flags(view),
            engine_findings.of_prefix_caching(view),
        )
        asleep = view is not None and view.snapshot is not None and view.snapshot.asleep
        if asleep or await self._client.asleep_or_paused():
            self._add(
                engine_findings.of_match_unit(view), engine_findings.resting(asleep=asleep is True)
            )
            self._not_tried("not tried: the engine sleeps or is paused")
            return info
        # First: its second request hits on a healthy engine. From then on it is known what an
        # answer without cached tokens means.
        test = await run_isolation_test(self._requests, info, self._plan.deadlines, self._new_salt)
        session = await SessionRunner(self._plan, self._requests, self._new_salt).play()
        knowledge = self._requests.knowledge
        test = replace(test, possible=knowledge.repeat_hit(test.prompt_tokens or 0))
        self._add(
            engine_findings.of_match_unit(view, session.reuse_rule),
            findings.of_engines(session),
            findings.of_usage_details(session),
            findings.of_token_ids(session),
            findings.of_first_turn(session),
            engine_findings.of_reuse_rule(session.reuse_rule, view),
            findings.of_second_turn(session),
            findings.of_prefix(session),
        )
        self._add(findings.of_isolation(test), findings.of_wedge(test, session))
        return info

    def _refused(self, error: EngineUnavailableError) -> None:
        """Add what went wrong, and every other test as unknown."""
        reason = FailureReason(error.reason)
        advice = FAILURE_ADVICE[reason]
        if reason in _ANSWERED:
            self._add(findings.passed(CheckTest.REACHABLE, f"{self._client.url} answers"))
            self._add(findings.failed(CheckTest.MODEL, error.detail, advice))
        else:
            self._add(findings.failed(CheckTest.REACHABLE, error.detail, advice))
        self._not_tried("not tried")

    def _not_tried(self, why: str) -> None:
        done = {one.name for one in self._found}
        self._add(*(findings.unknown(name, why) for name in TESTS if name not in done))

    def _add(self, *found: Finding) -> None:
        for one in found:
            self._found.append(one)
            self._on_finding(one)
