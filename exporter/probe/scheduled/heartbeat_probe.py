"""Sends a heartbeat where no session came for a while: does the engine answer, does its cache hit?

A heartbeat is a session of two turns and one token each. Its first prompt is as short as the
engine's reuse rule allows.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from exporter.analysis.load import Work, session_tokens
from exporter.analysis.wedge import wedged_after
from exporter.model.session import LossCause, Notice
from exporter.probe.scheduled.session_probe import count_cut_off
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.heartbeat import HEARTBEAT, opening_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.loops import LoopHeartbeat
    from exporter.model.session import SessionResult
    from exporter.probe.context import ProbeContext
    from exporter.probe.sink import SessionSink

_LONGEST_SLEEP_SECONDS = 60.0
"""The loop is seen to be alive at least so often."""
_KEPT_NOTICES = frozenset({Notice.SIMULATED, Notice.CACHE_WEDGED, Notice.MIXED, Notice.TRANSFER})
"""The other notices are about full sessions."""


class LastShown:
    """When a session or heartbeat last ran, in monotonic seconds. A target's loops share it."""

    def __init__(self, at: float) -> None:
        self.at = at


class HeartbeatProbe:
    """Sends a heartbeat when `interval_seconds` have passed since the last session or heartbeat."""

    def __init__(
        self,
        context: ProbeContext,
        sessions: SessionSink,
        interval_seconds: float,
        last: LastShown,
        heartbeat: LoopHeartbeat,
    ) -> None:
        """`heartbeat` reports that the loop is alive while it waits."""
        self._context = context
        self._sessions = sessions
        self._interval_seconds = interval_seconds
        self._last = last
        self._loop = heartbeat
        self._proof = False  # make the prompt long enough to prove a wedge
        plan = SessionPlan(
            *(context.target, HEARTBEAT, 1, context.deadlines),
            opening=self._opening,
            learns=False,
        )
        self._runner = SessionRunner(plan, context.requests, context.new_salt)

    async def round(self, started: Callable[[], None]) -> None:
        """Wait until a heartbeat is due and admitted, then send it."""
        clock, last = self._loop.clock, self._last
        while (wait := last.at + self._interval_seconds - clock.monotonic()) > 0:
            await clock.sleep(min(wait, _LONGEST_SLEEP_SECONDS))
            self._loop.ran()
        due = last.at
        async with self._context.admission.admitted(Work.HEARTBEAT) as charge:
            if last.at > due:
                return  # a session came first
            started()
            last.at = clock.monotonic()
            try:
                result = await self._play()
            except asyncio.CancelledError:
                count_cut_off(self._runner, self._context.sink, charge)
                raise
            charge.tokens = session_tokens(result)
            charge.failure = result.failure.reason if result.failure else None
        kept = result.notices & _KEPT_NOTICES
        self._sessions.session_finished(replace(result, heartbeat=True, notices=kept))

    async def _play(self) -> SessionResult:
        """One heartbeat, and a longer one after a loss that may be a wedged cache."""
        self._proof = False
        result = await self._runner.play()
        if not _may_be_wedged(result):
            return result
        self._proof = True
        longer = await self._runner.play()
        return replace(longer, extra_tokens=longer.extra_tokens + result.consumed_tokens)

    def _opening(self, match_unit: int | None, _capacity: int | None) -> int | None:
        knowledge = self._context.requests.knowledge
        return opening_tokens(match_unit, knowledge.repeat_hit, proof=self._proof)


def _may_be_wedged(result: SessionResult) -> bool:
    """Whether a turn hit nothing that it could have, and nothing shows why."""
    if result.failure is not None or wedged_after(result) is not None:
        return False
    losses = (turn.loss for turn in result.turns if not turn.cached_tokens)
    return any(one is not None and one.cause is LossCause.UNEXPLAINED for one in losses)
