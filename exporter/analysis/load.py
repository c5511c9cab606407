"""A good guest: whether the probe may ask something of an engine now, and if not, why. Pure.

The budget counts what the counter `vllm_probe_consumed_tokens_total` counts, all prompt and
completion tokens, cached ones too. That is more than the engine computes, but it is known on every
server, and anyone can check the budget against the counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.model.failure import Failure, FailureReason
from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot, EngineView
    from exporter.model.session import SessionResult, TurnFacts

HOUR = 3600.0
RECHECK_SECONDS = 5.0
"""How soon to look again at an engine that was busy."""
PAUSED_SECONDS = 60.0
"""How long an engine is left alone that refused a request because it is paused."""
STANDSTILL_SECONDS = 60.0
"""An engine that counted nothing for so long is stuck, or its gauges are."""
UNKNOWN_TURN_TOKENS = 3000
"""What a turn is charged whose tokens nobody told: more than one of the built-in scenario takes."""
_NEVER_ARRIVED = frozenset(
    {
        FailureReason.CONNECTION_REFUSED,
        FailureReason.CONNECT_FAILED,
        FailureReason.CONNECT_TIMEOUT,
        FailureReason.NO_DESCRIPTORS,
        FailureReason.ASLEEP,
        FailureReason.PAUSED,
    }
)


@dataclass(frozen=True, slots=True)
class LoadPolicy:
    """What an engine is spared. `tokens_per_hour` 0 is no limit."""

    tokens_per_hour: int
    max_waiting_requests: int
    max_kv_cache_usage_ratio: float


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """When what was spent will be worked off, in monotonic seconds.

    Each token takes its share of an hour to work off, and nothing starts before that. So what
    starts within any hour costs no more than the budget, and what its last start costs beyond.
    """

    free_at: float = float("-inf")

    def spent(self, tokens: int, now: float, tokens_per_hour: int) -> TokenBudget:
        """The ledger after something that ended at `now` and cost `tokens`."""
        if tokens_per_hour == 0:
            return self
        return TokenBudget(max(self.free_at, now) + tokens * HOUR / tokens_per_hour)

    def seconds_left(self, now: float) -> float:
        """Until all that was spent is worked off."""
        return max(0.0, self.free_at - now)

    def under(self, now: float, *, before: int, tokens_per_hour: int) -> TokenBudget:
        """The same tokens to work off under another budget than `before`; none without a limit."""
        if before == 0 or tokens_per_hour == 0:
            return TokenBudget()
        return TokenBudget(now + self.seconds_left(now) * before / tokens_per_hour)


@dataclass(frozen=True, slots=True)
class Pause:
    """Do not start, because of `reason`; ask again in `seconds`."""

    reason: PauseReason
    seconds: float


def budget_pause(budget: TokenBudget, now: float) -> Pause | None:
    """The pause that the budget asks for; it needs no look at the engine."""
    return Pause(PauseReason.BUDGET, budget.free_at - now) if budget.free_at > now else None


def busy_pause(view: EngineView | None, policy: LoadPolicy) -> Pause | None:
    """The pause that a busy engine asks for. An engine that cannot be read is not known to be busy.

    That one is probed all the same: whether it answers is what a session finds out.
    """
    seen = view.snapshot if view and view.failure is None else None
    if seen is None:
        return None
    if seen.asleep:
        return Pause(PauseReason.ASLEEP, RECHECK_SECONDS)
    if seen.requests_waiting is not None and seen.requests_waiting > policy.max_waiting_requests:
        return Pause(PauseReason.QUEUE, RECHECK_SECONDS)
    usage = seen.kv_cache_usage_ratio
    if usage is not None and usage > policy.max_kv_cache_usage_ratio:
        return Pause(PauseReason.USAGE, RECHECK_SECONDS)
    return None


@dataclass(frozen=True, slots=True)
class Standstill:
    """Since when, in monotonic seconds, a busy engine's counters say the same. `Standstill()`: it
    was not seen busy.
    """

    counters: tuple[float | None, ...] = ()
    since: float = float("inf")

    def after(self, view: EngineView | None, pause: Pause | None, now: float) -> Standstill:
        """With one more look, and the pause that it asks for."""
        seen = view.snapshot if view else None
        if seen is None or pause is None or pause.reason not in _BY_GAUGE:
            return Standstill()
        counters = _counters(seen)
        return self if counters == self.counters else Standstill(counters, now)

    def lasts(self, now: float) -> bool:
        """Whether it has lasted so long that the gauges are not to be believed."""
        return now - self.since >= STANDSTILL_SECONDS


_BY_GAUGE = frozenset({PauseReason.QUEUE, PauseReason.USAGE})


def _counters(seen: EngineSnapshot) -> tuple[float | None, ...]:
    """What rises while an engine works: the steps' tokens also while it computes a long prompt."""
    return (
        seen.process_start_time,
        seen.iteration_tokens,
        seen.prompt_tokens,
        seen.generation_tokens,
        seen.queried_tokens,
        seen.preemptions,
    )


def session_tokens(result: SessionResult) -> int:
    """What a session is charged: all that it is known to have cost, and guesses where that is not.

    A turn that failed after it may have reached the engine is charged as much as the one before.
    """
    charged = [_turn_tokens(turn) for turn in result.turns]
    total = sum(charged) + result.extra_tokens
    if _may_have_arrived(result.failure, result.failed_turn):
        total += charged[-1] if charged else UNKNOWN_TURN_TOKENS
    return total


def _may_have_arrived(failure: Failure | None, failed_turn: int | None) -> bool:
    return failed_turn is not None and failure is not None and failure.reason not in _NEVER_ARRIVED


def _turn_tokens(turn: TurnFacts) -> int:
    tokens = _sum_or_guess(turn.prompt_tokens, turn.completion_tokens)
    if turn.control is not None:
        known = turn.control.prompt_tokens
        tokens += _sum_or_guess(
            turn.prompt_tokens if known is None else known, turn.control.completion_tokens
        )
    return tokens


def _sum_or_guess(prompt: int | None, completion: int | None) -> int:
    return UNKNOWN_TURN_TOKENS if prompt is None else prompt + (completion or 0)
