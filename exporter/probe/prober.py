"""The loop that plays sessions against one target, for as long as the daemon lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from exporter.notices import ADVICE
from exporter.probe.guest import UNKNOWN_TURN_TOKENS, session_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.model import FailureReason, Notice, SessionResult
    from exporter.probe.gate import Gate
    from exporter.probe.session import SessionRunner

log = structlog.get_logger(__name__)


class Prober:
    """Plays a session, hands its result on, waits until the next is due.

    `interval_seconds` is from start to start; a session that takes longer is followed by the next
    after a tenth of the interval. `jitter` gives a factor around 1 for each wait, so that several
    exporters do not fall into step. The gate makes the interval longer where a session costs more
    than fits into the budget, or while the engine is busy.
    """

    def __init__(
        self,
        target: str,
        runner: SessionRunner,
        gate: Gate,
        clock: Clock,
        *,
        first_delay_seconds: float = 0.0,
        interval_seconds: float,
        jitter: Callable[[], float],
        publish: Callable[[SessionResult], None],
        on_loop_failure: Callable[[], None],
        on_loop_run: Callable[[], None],
    ) -> None:
        self._log = log.bind(target=target)
        self._runner = runner
        self._gate = gate
        self._clock = clock
        self._first_delay = first_delay_seconds
        self._interval = interval_seconds
        self._jitter = jitter
        self._publish = publish
        self._on_loop_failure = on_loop_failure
        self._on_loop_run = on_loop_run
        self._failing: FailureReason | None = None
        self._notices: frozenset[Notice] = frozenset()

    async def run(self) -> None:
        """Loop until cancelled. A mistake of ours in one round is logged and counted."""
        await self._clock.sleep(self._first_delay)
        while True:
            started = self._clock.monotonic()
            try:
                async with self._gate.admitted(announce=True) as bill:
                    started = self._clock.monotonic()
                    bill.tokens = UNKNOWN_TURN_TOKENS  # if a mistake of ours hides the true bill
                    result = await self._runner.play()
                    bill.tokens = session_tokens(result)
                self._tell(result)
                self._publish(result)
            except Exception:  # noqa: BLE001 - the loop must outlive a mistake of ours
                self._log.exception("probe.round_failed")
                self._on_loop_failure()
            self._on_loop_run()
            await self._clock.sleep(self._wait(self._clock.monotonic() - started))

    def _wait(self, took: float) -> float:
        """Seconds until the next session."""
        return max(self._interval * self._jitter() - took, self._interval / 10)

    def _tell(self, result: SessionResult) -> None:
        """Log what changed since the last session, and nothing else."""
        failure = result.failure
        if failure is not None and failure.reason is not self._failing:
            self._log.warning(
                "session.failed",
                reason=failure.reason,
                detail=failure.detail,
                turn=result.failed_turn,
            )
        elif failure is None and self._failing is not None:
            self._log.info("session.recovered", after=self._failing)
        self._failing = failure.reason if failure else None
        for notice in sorted(result.notices - self._notices):
            self._log.warning("session.notice", notice=notice, meaning=ADVICE[notice])
        if failure is None:
            for notice in sorted(self._notices - result.notices):
                self._log.info("session.notice_gone", notice=notice)
            self._notices = result.notices
        self._log.debug(
            "session.finished",
            turns=len(result.turns),
            seconds=round(result.duration_seconds, 3),
            failure=failure.reason if failure else None,
        )
