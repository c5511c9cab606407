"""The loop that now and then sends one prompt under two salts: does the cache keep tenants apart,
and does it hit at all?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.analysis.wedge import wedged_by
from exporter.errors import EngineUnavailableError
from exporter.model.probe import IsolationReading
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.isolation import run_isolation_test
from exporter.probe.rounds import Rounds
from exporter.wording.findings import Verdict, of_isolation, of_wedge

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.engine.client.engine_client import EngineClient
    from exporter.engine.wire.request import Deadlines
    from exporter.loops import LoopHeartbeat
    from exporter.probe.admission import Admission
    from exporter.probe.replicas import Observe
    from exporter.probe.rounds import Schedule
    from exporter.wording.findings import Finding

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IsolationPlan:
    """Whom to ask, when, and how long to wait for an answer."""

    target: str
    schedule: Schedule
    deadlines: Deadlines


@dataclass(frozen=True, slots=True)
class IsolationSinks:
    """Who is told: of each reading, and of the tokens it took."""

    reading: Callable[[IsolationReading], None]
    consumed: Callable[[int], None]


class IsolationLoop:
    """Waits at the gate like a session does, then sends its three requests."""

    def __init__(
        self,
        plan: IsolationPlan,
        client: EngineClient,
        admission: Admission,
        *,
        observe: Observe,
        clock: Clock,
        new_salt: Callable[[], str],
        sinks: IsolationSinks,
        heartbeat: LoopHeartbeat,
        requests: EngineRequests | None = None,
    ) -> None:
        """`requests` is what others ask the same engine through, too."""
        self._plan = plan
        self._requests = requests or EngineRequests(client, observe, clock)
        self._client = client
        self._admission = admission
        self._new_salt = new_salt
        self._sinks = sinks
        self._log = log.bind(target=plan.target)
        self._failing: dict[str, bool] = {}  # by event, as far as a round could tell
        self._rounds = Rounds(
            "salts",
            plan.target,
            self._once,
            schedule=plan.schedule,
            clock=clock,
            heartbeat=heartbeat,
        )

    async def run(self) -> None:
        """Loop until cancelled."""
        await self._rounds.run()

    async def _once(self, _begun: Callable[[], None]) -> None:
        async with self._admission.admitted() as charge:
            try:
                info = await self._client.info()
            except EngineUnavailableError:
                return  # the sessions say so, and why
            test = await run_isolation_test(
                self._requests, info, self._plan.deadlines, self._new_salt
            )
            charge.tokens = test.tokens
        self._sinks.consumed(test.tokens)
        isolation, wedge = of_isolation(test), of_wedge(test)
        leaked, wedged = _failed(isolation), wedged_by(test)
        self._tell("salts.leaked", isolation, leaked)
        self._tell("salts.wedged", wedge, wedged)
        self._sinks.reading(IsolationReading(self._plan.target, leaked=leaked, wedged=wedged))

    def _tell(self, event: str, finding: Finding, failed: bool | None) -> None:
        """Log when this begins and when it ends. A round that could not tell is neither."""
        before = self._failing.get(event, False)
        if failed is None or failed == before:
            return
        self._failing[event] = failed
        if failed:
            self._log.warning(event, detail=finding.evidence, meaning=finding.remedy)
        else:
            self._log.info("salts.recovered", after=event, detail=finding.evidence)


def _failed(finding: Finding) -> bool | None:
    """Whether a test failed; None where it is unknown."""
    return None if finding.verdict is Verdict.UNKNOWN else finding.verdict is Verdict.FAIL
