"""Decides when the probe may send to an engine, and sends one thing at a time.

Two locks: the session, isolation test or retention round that was admitted holds one until it ends.
Whatever sends a request holds the other, which a session gives up between two turns.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from exporter.analysis.footprint import Footprint, LastHour, UsersTraffic
from exporter.analysis.load import (
    PAUSED_SECONDS,
    RECHECK_SECONDS,
    UNKNOWN_TURN_TOKENS,
    LoadPolicy,
    Pause,
    SharedBudget,
    Standstill,
    TokenBudget,
    Work,
    budget_pause,
    burst_pause,
    busy_pause,
    users_pause,
)
from exporter.analysis.own_share import OwnShare
from exporter.model.failure import RESTS, FailureReason
from exporter.model.probe import Due, PauseReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from exporter.loops import LoopHeartbeat
    from exporter.model.engine import EngineView
    from exporter.probe.replicas import Observe
    from exporter.probe.sink import ProbeSink

log = structlog.get_logger(__name__)

_AFTER_OTHERS_SECONDS = 1.0
"""A session that waits for a budget starts so much later than other work that waits for it. That
work is rare and small, and a session would take the whole budget again."""
_SESSIONS_TO_EXPECT = 8
"""The next session is expected to write as much as the smallest of so many: one without a control.
"""
_LONGEST_SLEEP_SECONDS = 60.0
"""A longer pause is checked again in between, and published, so the loop is seen to be alive."""


async def _no_rest() -> FailureReason | None:
    return None


class NotNowError(Exception):
    """A session that must not wait may not start now, for the reason of `pause`."""

    def __init__(self, pause: Pause) -> None:
        super().__init__(pause.reason)
        self.pause = pause


@dataclass(slots=True)
class Charge:
    """What an admitted session, test or round has cost in tokens. It keeps this up to date."""

    tokens: int = 0
    failure: FailureReason | None = None  # of a session


class Admission:
    """Delays the probe while a budget, the engine's load or its users forbid it.

    `own` is the exporter's own share of the engine's counters: from it follows what admitted work
    wrote into the cache. `sink` gets that footprint after each of them, and at each check the
    reason for which sessions wait, None when they do not. `heartbeat` shows that the loop that
    waits is alive. `rest` asks the engine whether it sleeps, is paused or is being scaled, and only
    after a failure or where its counters stand still: /metrics shows sleep since vLLM 0.11, and the
    others in no version.
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
        own: Callable[[], OwnShare] = OwnShare,
    ) -> None:
        self._log = log.bind(target=target)
        self._policy = policy
        self._observe = observe
        self._clock = heartbeat.clock
        self._sink = sink
        self._heartbeat = heartbeat
        self._rest = rest
        self._own = own
        self._failed = False  # the last session failed
        self._rests_until, self._rests = float("-inf"), PauseReason.PAUSED
        self._admitted = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._yielded = False  # the admitted session does not hold `_sending`
        self._budget = SharedBudget()
        self._footprint = SharedBudget()
        self._capacity: int | None = None
        self._restarts: int | None = None
        self._traffic = UsersTraffic()
        self._counted = 0  # what the probe wrote, of which the budget knows
        self._beats, self._others = LastHour(), LastHour()  # what heartbeats wrote, and the rest
        self._sessions_written: deque[int] = deque(maxlen=_SESSIONS_TO_EXPECT)
        self._turns_written = 0  # by others between the turns of the admitted session
        self._first_waits = False  # the first session is due, and has not been admitted
        self._sessions_began = False
        self._logged: PauseReason | None = None
        self._standstill_logged = False

    def pace_seconds(self, tokens: int) -> float:
        """The seconds in which the budget allows so many tokens; 0 without a limit."""
        return TokenBudget().spend(tokens, 0.0, self._policy.tokens_per_hour).seconds_left(0.0)

    @property
    def tokens_per_hour(self) -> int:
        """The budget; 0 means no limit."""
        return self._policy.tokens_per_hour

    @property
    def footprint_unbounded(self) -> bool:
        """Whether the footprint has a limit that cannot hold: the capacity is unknown."""
        return bool(self._policy.max_cache_turnover_per_hour) and self._capacity is None

    def continue_from(self, other: Admission) -> None:
        """Take over what was spent on the same engine, under these budgets."""
        now, before, policy = self._clock.monotonic(), other._policy, self._policy
        self._budget = other._budget.under_limit(
            now, before=before.tokens_per_hour, tokens_per_hour=policy.tokens_per_hour
        )
        self._footprint = other._footprint.under_limit(
            now,
            before=before.max_cache_turnover_per_hour,
            tokens_per_hour=policy.max_cache_turnover_per_hour,
        )
        self._beats, self._others = other._beats, other._others
        self._capacity = other._capacity
        self._restarts = other._restarts
        self._sessions_written = other._sessions_written
        self._sessions_began = other._sessions_began
        self._logged = other._logged

    @asynccontextmanager
    async def admitted(self, work: Work = Work.OTHER) -> AsyncIterator[Charge]:
        """Wait for admission, and spend the charge at the end, also after a failure.

        A cancellation is charged a guess on top, for the request that was running.

        The reason for which a session waits is published and logged. A session or heartbeat also
        starts if the gauges show a busy engine whose counters have not moved for a minute: either
        the gauges are stuck or the engine is, and it finds out which.
        """
        await self._admit(work)
        async with self._working(work) as charge:
            yield charge

    @asynccontextmanager
    async def admitted_at_once(self) -> AsyncIterator[Charge]:
        """Like `admitted`, for a session that a client asked for: raises `NotNowError` where a
        limit or the engine forbids it now. It waits only for the exporter's own work.

        An engine without users is no reason: that pause spares work that nobody asked for.
        """
        await self._admitted.acquire()
        try:
            pause, _ = await self._pause(Work.ON_DEMAND, Standstill())
        except BaseException:
            self._admitted.release()
            raise
        if pause is not None and pause.reason is not PauseReason.QUIET:
            self._admitted.release()
            raise NotNowError(pause)
        async with self._working(Work.ON_DEMAND) as charge:
            yield charge

    @asynccontextmanager
    async def _working(self, work: Work) -> AsyncIterator[Charge]:
        """Hold both locks for admitted work, then charge and publish what it cost."""
        await self._start_sending()
        charge = Charge()
        began, self._turns_written = self._own().written_tokens, 0
        try:
            yield charge
        except asyncio.CancelledError:
            charge.tokens += UNKNOWN_TURN_TOKENS  # the running request may have been computed
            raise
        finally:
            now = self._clock.monotonic()
            if work is not Work.OTHER:
                self._session_ended(charge.failure, now)
            self._budget = self._budget.spend(
                work, charge.tokens, now, self._policy.tokens_per_hour
            )
            if work is Work.SESSION:
                total = self._own().written_tokens - began
                self._sessions_written.append(total - self._turns_written)
            self._spend_written(work, now)
            if not self._yielded:
                self._sending.release()
            self._yielded = False
            self._admitted.release()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait only until nothing else sends. For a request that is due and already charged."""
        async with self._sending:
            before = self._own().written_tokens
            yield
            self._turns_written += self._own().written_tokens - before
        self._spend_written(Work.OTHER, self._clock.monotonic())

    async def yield_turn(self) -> None:
        """Let requests that are due be sent first. The admitted session calls it between turns."""
        self._sending.release()
        self._yielded = True
        await self._sending.acquire()
        self._yielded = False

    def _spend_written(self, work: Work, now: float) -> None:
        """Charge and publish what was written into the cache since the last time."""
        written = self._own().written_tokens - self._counted
        self._counted += written
        if work is Work.HEARTBEAT:
            self._beats = self._beats.plus(written, now)
        else:
            self._others = self._others.plus(written, now)
        limit = self._written_per_hour
        self._footprint = self._footprint.spend(work, written, now, limit or 0.0)
        total = self._beats.total(now) + self._others.total(now)
        self._sink.footprint_changed(Footprint(total, self._capacity, limit))

    @property
    def _written_per_hour(self) -> float | None:
        """The most that the probe may write into the cache per hour; None without a limit."""
        limit = self._policy.max_cache_turnover_per_hour
        return limit * self._capacity if limit and self._capacity else None

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

    async def _admit(self, work: Work) -> None:
        announce = work is Work.SESSION
        self._first_waits = self._first_waits or (announce and not self._sessions_began)
        last: PauseReason | None = None
        standstill = Standstill()
        while True:
            # Held from the check until the admitted one ends, but not during a wait.
            await self._admitted.acquire()
            try:
                pause, standstill = await self._pause(work, standstill)
            except BaseException:
                self._admitted.release()
                raise
            stands = standstill.lasts(self._clock.monotonic())
            if work is not Work.OTHER and pause is not None and stands and pause.by_gauge:
                self._publish_standstill(pause)
                self._note_admitted(work)
                return
            if announce:
                self._publish_pause(pause, last)
            elif work is Work.HEARTBEAT:
                self._move_due(Due.HEARTBEAT, pause)
            if pause is None:
                self._note_admitted(work)
                return
            self._admitted.release()
            last = pause.reason
            await self._clock.sleep(min(pause.seconds, _LONGEST_SLEEP_SECONDS))

    def _note_admitted(self, work: Work) -> None:
        if work is Work.SESSION:
            self._first_waits, self._sessions_began = False, True

    async def _pause(self, work: Work, standstill: Standstill) -> tuple[Pause | None, Standstill]:
        now = self._clock.monotonic()
        by_budget = self._limits_pause(work, now)
        if by_budget is not None:
            later = _AFTER_OTHERS_SECONDS if work is Work.SESSION else 0.0
            return replace(by_budget, seconds=by_budget.seconds + later), Standstill()
        if work is Work.OTHER and self._first_waits:
            return Pause(PauseReason.BUDGET, _AFTER_OTHERS_SECONDS), Standstill()
        if now < self._rests_until:
            return Pause(self._rests, self._rests_until - now), Standstill()
        view = await self._observe()
        self._note_users(view, now)
        pause = busy_pause(view, self._policy)
        if pause is None and work is not Work.HEARTBEAT:
            pause = users_pause(
                self._traffic, self._policy, (self._sessions_written or (0,))[-1], now
            )
        standstill = standstill.after(view, pause, now)
        if (pause is None and self._failed) or standstill.lasts(now):
            rest = await self._rest()
            pause = pause if rest is None else Pause(PauseReason(rest), RECHECK_SECONDS)
        return pause, standstill

    def _limits_pause(self, work: Work, now: float) -> Pause | None:
        """The longest pause that the limits on the probe demand; None if none."""
        by_budget = budget_pause(self._budget, self._footprint, work, now)
        if work is Work.HEARTBEAT:
            return by_budget
        session = work in (Work.SESSION, Work.ON_DEMAND)
        expected = min(self._sessions_written, default=0) if session else 0
        per_hour = self._written_per_hour or 0.0
        by_burst = burst_pause(self._beats, self._others, expected, per_hour, now)
        pauses = [pause for pause in (by_budget, by_burst) if pause is not None]
        return max(pauses, key=lambda pause: pause.seconds, default=None)

    def _note_users(self, view: EngineView | None, now: float) -> None:
        cache = view.snapshot.cache if view is not None and view.snapshot is not None else None
        if cache is not None and cache.capacity_tokens:
            self._capacity = cache.capacity_tokens
        if view is not None and view.restarts != self._restarts:
            if self._restarts is not None:
                # What was written is gone with the process.
                self._footprint, self._beats, self._others = SharedBudget(), LastHour(), LastHour()
            self._restarts = view.restarts
        self._traffic = self._traffic.after(view, self._own(), now)

    def _publish(self, pause: Pause | None) -> None:
        until = None if pause is None else self._clock.time() + pause.seconds
        self._sink.admission_checked(pause.reason if pause else None, until)
        self._move_due(Due.SESSION, pause)
        self._heartbeat.ran()

    def _move_due(self, what: Due, pause: Pause | None) -> None:
        """A limit or a rest moves the time on; a busy engine makes what was due late."""
        if pause is not None and not pause.by_gauge:
            self._sink.due_at(what, self._clock.time() + pause.seconds)

    def _publish_pause(self, pause: Pause | None, last: PauseReason | None) -> None:
        """Publish the pause, and log its changes.

        Sessions that each wait for a limit on the probe are in one long pause: it ends when a
        session starts that did not wait for one.
        """
        self._publish(pause)
        if pause is not None and pause.reason is not self._logged:
            self._log.info("probe.paused", reason=pause.reason, seconds=round(pause.seconds, 1))
            self._logged = pause.reason
        elif pause is None and self._logged is not None and (last is None or not last.by_pace):
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
