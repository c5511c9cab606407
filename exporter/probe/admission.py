"""Decides when the probe may send to an engine, and sends one thing at a time.

Two locks: the session, isolation test or retention round that was admitted holds one until it ends.
Whatever sends a request holds the other, which a session gives up between two turns.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.analysis.load import (
    PAUSED_SECONDS,
    RECHECK_SECONDS,
    UNKNOWN_TURN_TOKENS,
    LoadPolicy,
    Pause,
    Standstill,
    TokenBudget,
    budget_pause,
    busy_pause,
)
from exporter.model.failure import RESTS, FailureReason
from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from exporter.loops import LoopHeartbeat
    from exporter.probe.replicas import Observe
    from exporter.probe.sink import ProbeSink

log = structlog.get_logger(__name__)

_LONGEST_SLEEP_SECONDS = 60.0
"""A longer pause is checked again in between, and published, so the loop is seen to be alive."""


async def _no_rest() -> FailureReason | None:
    return None


@dataclass(slots=True)
class Charge:
    """What an admitted session, test or round has cost in tokens. It keeps this up to date."""

    tokens: int = 0
    failure: FailureReason | None = None  # of a session


class Admission:
    """Delays the probe while the budget or the engine's load forbids it.

    `sink` gets the reason for which sessions wait at each check, None when they do not, and
    `heartbeat` shows that the loop that waits is alive. `rest` asks the engine whether it sleeps,
    is paused or is being scaled, and only after a failure or where its counters stand still:
    /metrics shows sleep since vLLM 0.11, and the others in no version.
    """

    def __init__(
        self,
        target: str,
        policy: LoadPolicy,
        observe: Observe,
        *,
        sink: ProbeSink,
        heartbeat: LoopHeartbeat,
        rest: Callable[[], Awaitable[FailureReason | None]] = _no_rest,
    ) -> None:
        self._log = log.bind(target=target)
        self._policy = policy
        self._observe = observe
        self._clock = heartbeat.clock
        self._sink = sink
        self._heartbeat = heartbeat
        self._rest = rest
        self._failed = False  # the last session failed
        self._rests_until, self._rests = float("-inf"), PauseReason.PAUSED
        self._admitted = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._yielded = False  # the admitted session does not hold `_sending`
        self._budget = TokenBudget()
        self._logged: PauseReason | None = None
        self._standstill_logged = False

    def pace_seconds(self, tokens: int) -> float:
        """The seconds in which the budget allows so many tokens; 0 without a limit."""
        return TokenBudget().spend(tokens, 0.0, self._policy.tokens_per_hour).seconds_left(0.0)

    @property
    def tokens_per_hour(self) -> int:
        """The budget; 0 means no limit."""
        return self._policy.tokens_per_hour

    def continue_from(self, other: Admission) -> None:
        """Take over what was spent on the same engine, under this budget."""
        self._budget = other._budget.under_limit(
            self._clock.monotonic(),
            before=other._policy.tokens_per_hour,
            tokens_per_hour=self._policy.tokens_per_hour,
        )
        self._logged = other._logged

    @asynccontextmanager
    async def admitted(self, *, announce: bool = False) -> AsyncIterator[Charge]:
        """Wait for admission, and spend the charge at the end, also after a failure.

        A cancellation is charged a guess on top, for the request that was running.

        With `announce`, the reason of the wait is published and logged. It also admits if the
        gauges show a busy engine whose counters have not moved for a minute: either the gauges are
        stuck or the engine is, and the session finds out which.
        """
        await self._admit(announce=announce)
        await self._start_sending()
        charge = Charge()
        try:
            yield charge
        except asyncio.CancelledError:
            charge.tokens += UNKNOWN_TURN_TOKENS  # the running request may have been computed
            raise
        finally:
            now = self._clock.monotonic()
            if announce:
                self._session_ended(charge.failure, now)
            self._budget = self._budget.spend(charge.tokens, now, self._policy.tokens_per_hour)
            if not self._yielded:
                self._sending.release()
            self._yielded = False
            self._admitted.release()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait only until nothing else sends. For a request that is due and already charged."""
        async with self._sending:
            yield

    async def yield_turn(self) -> None:
        """Let requests that are due be sent first. The admitted session calls it between turns."""
        self._sending.release()
        self._yielded = True
        await self._sending.acquire()
        self._yielded = False

    async def _start_sending(self) -> None:
        try:
            await self._sending.acquire()
        except BaseException:
            self._admitted.release()
            raise

    def _session_ended(self, failure: FailureReason | None, now: float) -> None:
        """Remember the result. An engine that said it rests gets no session for a while."""
        self._failed = failure is not None
        if failure in RESTS:
            self._rests_until, self._rests = now + PAUSED_SECONDS, PauseReason(failure)
            self._publish_pause(Pause(self._rests, PAUSED_SECONDS), None)

    async def _admit(self, *, announce: bool) -> None:
        last: PauseReason | None = None
        standstill = Standstill()
        while True:
            # Held from the check until the admitted one ends, but not during a wait.
            await self._admitted.acquire()
            try:
                pause, standstill = await self._pause(standstill)
            except BaseException:
                self._admitted.release()
                raise
            stands = standstill.lasts(self._clock.monotonic())
            if announce and pause is not None and stands and pause.by_gauge:
                self._publish_standstill(pause)
                return
            if announce:
                self._publish_pause(pause, last)
            if pause is None:
                return
            self._admitted.release()
            last = pause.reason
            await self._clock.sleep(min(pause.seconds, _LONGEST_SLEEP_SECONDS))

    async def _pause(self, standstill: Standstill) -> tuple[Pause | None, Standstill]:
        now = self._clock.monotonic()
        by_budget = budget_pause(self._budget, now)
        if by_budget is not None:
            return by_budget, Standstill()
        if now < self._rests_until:
            return Pause(self._rests, self._rests_until - now), Standstill()
        view = await self._observe()
        pause = busy_pause(view, self._policy)
        standstill = standstill.after(view, pause, now)
        if (pause is None and self._failed) or standstill.lasts(now):
            rest = await self._rest()
            pause = pause if rest is None else Pause(PauseReason(rest), RECHECK_SECONDS)
        return pause, standstill

    def _publish(self, pause: Pause | None) -> None:
        until = None if pause is None else self._clock.time() + pause.seconds
        self._sink.admission_checked(pause.reason if pause else None, until)
        self._heartbeat.ran()

    def _publish_pause(self, pause: Pause | None, last: PauseReason | None) -> None:
        """Publish the pause, and log its changes.

        Sessions that each wait for the budget are in one long pause: it ends when a session starts
        that did not wait for the budget.
        """
        self._publish(pause)
        if pause is not None and pause.reason is not self._logged:
            self._log.info("probe.paused", reason=pause.reason, seconds=round(pause.seconds, 1))
            self._logged = pause.reason
        elif pause is None and self._logged is not None and last is not PauseReason.BUDGET:
            self._log.info("probe.resumed", after=self._logged)
            self._logged = None
        if pause is None:
            self._standstill_logged = False

    def _publish_standstill(self, pause: Pause) -> None:
        """Publish that a session starts although the gauges show a busy engine."""
        self._publish(None)
        if not self._standstill_logged:
            self._log.warning("probe.engine_stalled", reason=pause.reason)
        self._standstill_logged = True
