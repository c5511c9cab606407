"""The loop that plays sessions against one target, for as long as the daemon lives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.analysis.load import UNKNOWN_TURN_TOKENS, session_tokens
from exporter.probe.rounds import Rounds
from exporter.wording.notices import ADVICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.loops import LoopHeartbeat
    from exporter.model.failure import Failure, FailureReason
    from exporter.model.session import Notice, SessionResult
    from exporter.probe.admission import Admission, Charge
    from exporter.probe.rounds import Schedule
    from exporter.probe.session.runner import SessionRunner

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SessionSinks:
    """Who is told of a session that has finished, and of the tokens of one that was cut off."""

    finished: Callable[[SessionResult], None]
    consumed: Callable[[int], None]


class Prober:
    """Plays a session, hands its result on, waits until the next is due.

    The gate makes the interval longer where a session costs more than fits into the budget, or
    while the engine is busy.
    """

    def __init__(
        self,
        target: str,
        runner: SessionRunner,
        admission: Admission,
        clock: Clock,
        *,
        schedule: Schedule,
        sinks: SessionSinks,
        heartbeat: LoopHeartbeat,
    ) -> None:
        self._log = log.bind(target=target)
        self._runner = runner
        self._admission = admission
        self._sinks = sinks
        self._rounds = Rounds(
            "probe", target, self._once, schedule=schedule, clock=clock, heartbeat=heartbeat
        )
        self._interval_seconds = schedule.interval_seconds
        self._too_often = False  # for the budget, as the log says
        self._failing: dict[str | None, FailureReason] = {}  # by scenario; None: the target itself
        self._notices: dict[str, frozenset[Notice]] = {}  # by scenario

    @property
    def due_at(self) -> float | None:
        """When the next session is due, in monotonic seconds, jitter apart; None before it runs."""
        return self._rounds.due_at

    async def run(self) -> None:
        """Loop until cancelled."""
        await self._rounds.run()

    async def _once(self, begun: Callable[[], None]) -> None:
        async with self._admission.admitted(announce=True) as charge:
            begun()
            charge.tokens = UNKNOWN_TURN_TOKENS  # if a mistake of ours hides the true bill
            try:
                result = await self._runner.play()
            except asyncio.CancelledError:
                self._cut_off(charge)
                raise
            charge.tokens = session_tokens(result)
            charge.failure = result.failure.reason if result.failure else None
        self._tell(result)
        self._tell_pace(charge.tokens)
        self._sinks.finished(result)

    def _cut_off(self, charge: Charge) -> None:
        """Account for a session that ends with this loop: it is no result, but it was paid."""
        played = self._runner.so_far()
        if played is not None:
            charge.tokens = session_tokens(played)
            self._sinks.consumed(played.consumed_tokens)

    def _tell(self, result: SessionResult) -> None:
        """Log what changed since the last sessions of all scenarios, and nothing else."""
        if result.failure is None:
            self._tell_recovery(result.scenario)
        else:
            self._tell_failure(result, result.failure)
        self._tell_notices(result)
        self._log.debug(
            "session.finished",
            turns=len(result.turns),
            seconds=round(result.duration_seconds, 3),
            failure=result.failure.reason if result.failure else None,
        )

    def _tell_pace(self, tokens: int) -> None:
        """Warn once where sessions like this one are too many for the budget."""
        allowed = self._admission.pace_seconds(tokens)
        if self._too_often or allowed <= self._interval_seconds:
            return
        self._too_often = True
        self._log.warning(
            "probe.interval_too_short",
            meaning=f"a session of {tokens:,} tokens every {self._interval_seconds:g} s is more "
            f"than {self._admission.tokens_per_hour:,} tokens an hour: the next starts after "
            f"{allowed:.3g} s. Raise probe.interval_seconds or probe.tokens_per_hour.",
        )

    def _tell_failure(self, result: SessionResult, failure: Failure) -> None:
        what = None if failure.reason.is_of_the_target else result.scenario
        if self._failing.get(what) is not failure.reason:
            self._log.warning(
                "session.failed",
                reason=failure.reason,
                detail=failure.detail,
                scenario=result.scenario,
                turn=result.failed_turn,
            )
        if what is not None:
            self._failing.pop(None, None)  # the last failure is another one now
        self._failing[what] = failure.reason

    def _tell_recovery(self, scenario: str) -> None:
        for what in (None, scenario):
            reason = self._failing.pop(what, None)
            if reason is not None:
                self._log.info("session.recovered", after=reason, scenario=scenario)

    def _tell_notices(self, result: SessionResult) -> None:
        """One that a session of any scenario has is known; a failed session takes none back."""
        before = self._all_notices()
        kept = frozenset() if result.failure is None else self._notices.get(result.scenario, ())
        self._notices[result.scenario] = result.notices.union(kept)
        now = self._all_notices()
        for notice in sorted(now - before):
            self._log.warning("session.notice", notice=notice, meaning=ADVICE[notice])
        for notice in sorted(before - now):
            self._log.info("session.notice_gone", notice=notice)

    def _all_notices(self) -> frozenset[Notice]:
        return frozenset(notice for each in self._notices.values() for notice in each)
