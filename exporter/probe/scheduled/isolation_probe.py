"""Runs the isolation test on a schedule: does the cache keep salts apart, and does it still hit?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from exporter.analysis.wedge import wedged_by
from exporter.errors import EngineUnavailableError
from exporter.model.probe import IsolationReading
from exporter.probe.isolation import run_isolation_test
from exporter.wording.findings.finding import Verdict
from exporter.wording.findings.isolation import of_isolation, of_wedge

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.probe.context import ProbeContext
    from exporter.wording.findings.finding import Finding

log = structlog.get_logger(__name__)


class IsolationProbe:
    """Publishes each isolation test, and logs when a leak or a wedge starts and ends."""

    def __init__(self, context: ProbeContext) -> None:
        self._context = context
        self._log = log.bind(target=context.target)
        self._failing: dict[str, bool] = {}  # by event, as of the last test that could tell

    async def round(self, _started: Callable[[], None]) -> None:
        """Wait for admission, then run one test."""
        context, requests = self._context, self._context.requests
        async with context.admission.admitted() as charge:
            try:
                info = await requests.client.info()
            except EngineUnavailableError:
                return  # the sessions publish this failure
            test = await run_isolation_test(requests, info, context.deadlines, context.new_salt)
            charge.tokens = test.tokens
        context.sink.tokens_consumed(test.tokens)
        isolation = of_isolation(test)
        known = isolation.verdict is not Verdict.UNKNOWN
        leaked = isolation.verdict is Verdict.FAIL if known else None
        wedged = wedged_by(test)
        self._log_change("isolation.leak", isolation, leaked)
        self._log_change("isolation.wedge", of_wedge(test), wedged)
        context.sink.isolation_tested(
            IsolationReading(context.target, leaked=leaked, wedged=wedged)
        )

    def _log_change(self, event: str, finding: Finding, failed: bool | None) -> None:
        """Log when a fault starts and when it ends. None, a test that cannot tell, does neither."""
        if failed is None or failed == self._failing.get(event, False):
            return
        self._failing[event] = failed
        if failed:
            self._log.warning(event, detail=finding.evidence, meaning=finding.remedy)
        else:
            self._log.info("isolation.recovered", after=event, detail=finding.evidence)
