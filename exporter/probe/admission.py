"""The gate before an engine: everything that the probe asks of it passes here, one at a time."""

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
from exporter.model.failure import FailureReason
from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from exporter.clock import Clock
    from exporter.probe.replicas import Observe

log = structlog.get_logger(__name__)

_LONGEST_WAIT_SECONDS = 60.0
"""A longer pause is looked at again meanwhile, so that whoever is told sees a loop that lives."""


async def _never_rests() -> bool:
    return False


@dataclass(slots=True)
class Charge:
    """What the one who was let in has spent, in tokens; kept up to date by the one let in."""

    tokens: int = 0
    failure: FailureReason | None = None  # why what was asked for did not come


class Admission:
    """Holds back whoever wants to start while the budget or the engine's load forbids it.

    `publish` is told why sessions are held back, None when they are not, at each look. `rests` asks
    the engine whether it sleeps or is paused. It is asked only after something failed: before vLLM
    0.11 /metrics does not say it, and no version says there that it is paused.
    """

    def __init__(
        self,
        target: str,
        policy: LoadPolicy,
        observe: Observe,
        clock: Clock,
        publish: Callable[[PauseReason | None], None],
        *,
        rests: Callable[[], Awaitable[bool]] = _never_rests,
    ) -> None:
        self._log = log.bind(target=target)
        self._policy = policy
        self._observe = observe
        self._clock = clock
        self._publish = publish
        self._rests = rests
        self._failed = False  # the last one let in got no answer
        self._paused_until = float("-inf")
        self._lock = asyncio.Lock()  # of the one who was let in
        self._asking = asyncio.Lock()  # of the one who asks now
        self._stepped_aside = False
        self._budget = TokenBudget()
        self._told: PauseReason | None = None
        self._wait_seconds = 0.0
        self._standstill_told = False

    @property
    def wait_seconds(self) -> float:
        """How long the pause that was published last is known to take; 0 where there is none."""
        return self._wait_seconds

    def pace_seconds(self, tokens: int) -> float:
        """The time in which the budget allows for so many tokens; 0 without a limit."""
        return TokenBudget().spent(tokens, 0.0, self._policy.tokens_per_hour).seconds_left(0.0)

    @property
    def tokens_per_hour(self) -> int:
        """The budget; 0 is no limit."""
        return self._policy.tokens_per_hour

    def take_over(self, other: Admission) -> None:
        """Go on with what was spent at another gate before the same engine, at this budget."""
        self._budget = other._budget.under(
            self._clock.monotonic(),
            before=other._policy.tokens_per_hour,
            tokens_per_hour=self._policy.tokens_per_hour,
        )
        self._told = other._told

    @asynccontextmanager
    async def admitted(self, *, announce: bool = False) -> AsyncIterator[Charge]:
        """Wait until one may start, and charge the bill at the end, also of what ends badly.
        What is cut off is charged a guess beside its bill, for the request that was under way.

        With `announce`, what one waits for is published and logged; and it is let in where the
        engine is busy by its gauges, but has counted nothing for a minute. Either the gauges are
        stuck or the engine is, and that is for the one let in to find out.
        """
        await self._enter(announce=announce)
        await self._begin()
        charge = Charge()
        try:
            yield charge
        except asyncio.CancelledError:
            charge.tokens += UNKNOWN_TURN_TOKENS  # what was under way may have been paid, too
            raise
        finally:
            now = self._clock.monotonic()
            if announce:
                self._note(charge.failure, now)
            self._budget = self._budget.spent(charge.tokens, now, self._policy.tokens_per_hour)
            if not self._stepped_aside:
                self._asking.release()
            self._stepped_aside = False
            self._lock.release()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait only until nothing else is asked: for what was paid before and is due now."""
        async with self._asking:
            yield

    async def yield_turn(self) -> None:
        """Let what is due now be asked first; for the one who was let in, between two requests."""
        self._asking.release()
        self._stepped_aside = True
        await self._asking.acquire()
        self._stepped_aside = False

    async def _begin(self) -> None:
        try:
            await self._asking.acquire()
        except BaseException:
            self._lock.release()
            raise

    def _note(self, failure: FailureReason | None, now: float) -> None:
        """Remember how a session came out. An engine that said it is paused is left alone."""
        self._failed = failure is not None
        if failure is FailureReason.PAUSED:
            self._paused_until = now + PAUSED_SECONDS
            self._tell(Pause(PauseReason.ASLEEP, PAUSED_SECONDS), None)

    async def _enter(self, *, announce: bool) -> None:
        last: PauseReason | None = None
        standstill = Standstill()
        while True:
            # Held from the look at the engine until the end of what was let in, never in a wait.
            await self._lock.acquire()
            try:
                pause, standstill = await self._pause(standstill)
            except BaseException:
                self._lock.release()
                raise
            if announce and pause is not None and standstill.lasts(self._clock.monotonic()):
                self._tell_standstill(pause)
                return
            if announce:
                self._tell(pause, last)
            if pause is None:
                return
            self._lock.release()
            last = pause.reason
            await self._clock.sleep(min(pause.seconds, _LONGEST_WAIT_SECONDS))

    async def _pause(self, standstill: Standstill) -> tuple[Pause | None, Standstill]:
        now = self._clock.monotonic()
        by_budget = budget_pause(self._budget, now)
        if by_budget is not None:
            return by_budget, Standstill()
        if now < self._paused_until:
            return Pause(PauseReason.ASLEEP, self._paused_until - now), Standstill()
        view = await self._observe()
        pause = busy_pause(view, self._policy)
        if pause is None and self._failed and await self._rests():
            pause = Pause(PauseReason.ASLEEP, RECHECK_SECONDS)
        return pause, standstill.after(view, pause, now)

    def _tell(self, pause: Pause | None, last: PauseReason | None) -> None:
        """Publish the state, log its changes.

        A budget that paces the probe is one long state: it is over when a session starts that did
        not have to wait for it.
        """
        self._wait_seconds = pause.seconds if pause else 0.0
        self._publish(pause.reason if pause else None)
        if pause is not None and pause.reason is not self._told:
            self._log.info("probe.paused", reason=pause.reason, seconds=round(pause.seconds, 1))
            self._told = pause.reason
        elif pause is None and self._told is not None and last is not PauseReason.BUDGET:
            self._log.info("probe.resumed", after=self._told)
            self._told = None
        if pause is None:
            self._standstill_told = False

    def _tell_standstill(self, pause: Pause) -> None:
        """The engine is probed although it is busy; the pause is not over for that."""
        self._wait_seconds = 0.0
        self._publish(None)
        if not self._standstill_told:
            self._log.warning("probe.engine_stands_still", reason=pause.reason)
        self._standstill_told = True
