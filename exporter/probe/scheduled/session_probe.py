"""Runs sessions on a schedule, publishes them, and logs what changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from exporter.analysis.load import UNKNOWN_TURN_TOKENS, Work, session_tokens
from exporter.analysis.session_totals import session_totals
from exporter.model.session import Notice
from exporter.probe.session.plan import SessionHooks
from exporter.wording.notices import ADVICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.model.failure import Failure, FailureReason
    from exporter.model.session import SessionResult
    from exporter.probe.admission import Charge
    from exporter.probe.context import ProbeContext
    from exporter.probe.session.runner import SessionRunner
    from exporter.probe.sink import ProbeSink, SessionSink

log = structlog.get_logger(__name__)


class SessionProbe:
    """Plays one session a round.

    Admission delays a session while the engine is busy, or after sessions that cost more than the
    budgets allow.
    """

    def __init__(
        self,
        context: ProbeContext,
        runner: SessionRunner,
        sessions: SessionSink,
        interval_seconds: float,
        on_request: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_request` is called before each request: a slow session shows the engine all along."""
        self._hooks = SessionHooks(on_request=lambda _control: on_request())
        self._log = log.bind(target=context.target)
        self._runner = runner
        self._admission = context.admission
        self._sink = context.sink
        self._sessions = sessions
        self._interval_seconds = interval_seconds
        self._warned_of_interval = False
        self._failing: dict[str | None, FailureReason] = {}  # by scenario; None: the target itself
        self._notices: dict[str, frozenset[Notice]] = {}  # by scenario

    async def round(self, started: Callable[[], None]) -> None:
        """Wait for admission, then play one session."""
        async with self._admission.admitted(Work.SESSION) as charge:
            started()
            charge.tokens = UNKNOWN_TURN_TOKENS  # a guess, for an unexpected exception
            try:
                result = await self._runner.play(self._hooks)
            except asyncio.CancelledError:
                count_cut_off(self._runner, self._sink, charge)
                raise
            charge.tokens = session_tokens(result)
            charge.failure = result.failure.reason if result.failure else None
        if self._admission.footprint_unbounded and result.failure is None:
            known = result.notices | {Notice.CAPACITY_UNKNOWN}
            result = replace(result, notices=known)
        self._log_changes(result)
        self._warn_of_interval(charge.tokens)
        self._sessions.session_finished(result)

    def _log_changes(self, result: SessionResult) -> None:
        """Log only what changed since the last sessions of all scenarios."""
        if result.failure is None:
            self._log_recovery(result.scenario)
        else:
            self._log_failure(result, result.failure)
        self._log_notices(result)
        self._log_end(result)

    def _log_end(self, result: SessionResult) -> None:
        """What is unknown is left out. A failure that goes on is no news."""
        say = self._log.info if result.failure is None else self._log.debug
        totals = session_totals(result.turns)
        ratios = {"hit_ratio": totals.hit_ratio, "efficiency_ratio": totals.efficiency_ratio}
        facts = {
            "scenario": result.scenario,
            "turns": totals.turns,
            "prompt_tokens": totals.prompt_tokens,
            "cached_tokens": totals.cached_tokens,
            **{name: None if one is None else round(one, 4) for name, one in ratios.items()},
            "seconds": round(result.duration_seconds, 3),
            "failure": result.failure.reason if result.failure else None,
        }
        say("session.finished", **{name: one for name, one in facts.items() if one is not None})

    def _warn_of_interval(self, tokens: int) -> None:
        """Warn once if the interval is too short for sessions like this one within the budget."""
        allowed = self._admission.pace_seconds(tokens)
        if self._warned_of_interval or allowed <= self._interval_seconds:
            return
        self._warned_of_interval = True
        self._log.warning(
            "probe.interval_too_short",
            meaning=f"a session of {tokens:,} tokens every {self._interval_seconds:g} s is more "
            f"than {self._admission.tokens_per_hour:,} tokens an hour: the next starts after "
            f"{allowed:.3g} s. Raise probe.interval_seconds or probe.tokens_per_hour.",
        )

    def _log_failure(self, result: SessionResult, failure: Failure) -> None:
        what = None if failure.reason.concerns_target else result.scenario
        if self._failing.get(what) is not failure.reason:
            self._log.warning(
                "session.failed",
                reason=failure.reason,
                detail=failure.detail,
                scenario=result.scenario,
                turn=result.failed_turn,
            )
        if what is not None:
            self._failing.pop(None, None)  # the target itself answers again
        self._failing[what] = failure.reason

    def _log_recovery(self, scenario: str) -> None:
        for what in (None, scenario):
            reason = self._failing.pop(what, None)
            if reason is not None:
                self._log.info("session.recovered", after=reason, scenario=scenario)

    def _log_notices(self, result: SessionResult) -> None:
        """Log notices that no scenario had before, and those that no scenario has any more.

        A failed session ends no notice.
        """
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


def count_cut_off(runner: SessionRunner, sink: ProbeSink, charge: Charge) -> None:
    """Count the tokens of a cancelled session or heartbeat, which is not published."""
    played = runner.so_far()
    if played is not None:
        charge.tokens = session_tokens(played)
        sink.tokens_consumed(played.consumed_tokens)
