"""Limits the load on an engine: whether the probe may send a request now, and if not, why.

The budget counts the same tokens as `vllm_probe_consumed_tokens_total`: all prompt and completion
tokens, also the cached ones. The engine computes fewer, but these tokens are known on every server,
and a user can compare the budget with the counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot, EngineView
    from exporter.model.session import SessionResult, TurnFacts

HOUR = 3600.0
RECHECK_SECONDS = 5.0
"""Seconds until the probe looks again at a busy engine."""
PAUSED_SECONDS = 60.0
"""Seconds without a request after the engine said that it is paused or being scaled."""
STANDSTILL_SECONDS = 60.0
"""If the counters of a busy engine stay the same for so long, it is stuck, or its gauges are."""
UNKNOWN_TURN_TOKENS = 3000
"""The charge for a turn of unknown length: more than any turn of the built-in scenario takes."""


class LoadPolicy(Protocol):
    """The limits on the load, a part of `exporter.config.ProbeSettings`. 0 tokens are no limit."""

    tokens_per_hour: int
    max_waiting_requests: int
    max_kv_cache_usage_ratio: float


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """When the next session may start (`free_at`, monotonic seconds).

    With a budget of N tokens per hour, each token that was spent moves `free_at` by 1/N of an hour.
    So the sessions of any hour cost at most the budget, plus what the last of them goes beyond it.
    """

    free_at: float = float("-inf")

    def spend(self, tokens: int, now: float, tokens_per_hour: int) -> TokenBudget:
        """The budget after a session or test that ended at `now` and cost `tokens`."""
        if tokens_per_hour == 0:
            return self
        return TokenBudget(max(self.free_at, now) + tokens * HOUR / tokens_per_hour)

    def seconds_left(self, now: float) -> float:
        """Seconds until the next session may start."""
        return max(0.0, self.free_at - now)

    def under_limit(self, now: float, *, before: int, tokens_per_hour: int) -> TokenBudget:
        """The same spent tokens under a new budget; none are left without a limit."""
        if before == 0 or tokens_per_hour == 0:
            return TokenBudget()
        return TokenBudget(now + self.seconds_left(now) * before / tokens_per_hour)


@dataclass(frozen=True, slots=True)
class Pause:
    """Do not start now, for this `reason`; check again in `seconds`."""

    reason: PauseReason
    seconds: float

    @property
    def by_gauge(self) -> bool:
        """Whether gauges demand it, which can be stuck."""
        return self.reason in _BY_GAUGE


def budget_pause(budget: TokenBudget, now: float) -> Pause | None:
    """The pause that the budget demands; None if there is budget."""
    return Pause(PauseReason.BUDGET, budget.free_at - now) if budget.free_at > now else None


def busy_pause(view: EngineView | None, policy: LoadPolicy) -> Pause | None:
    """The pause that a busy or sleeping engine demands; None otherwise.

    An engine whose /metrics cannot be read is probed all the same: the session shows whether it
    answers.
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
    """Since when the counters of a busy engine have not moved, in monotonic seconds.

    `Standstill()`: the engine was not busy.
    """

    counters: tuple[float | None, ...] = ()
    since: float = float("inf")

    def after(self, view: EngineView | None, pause: Pause | None, now: float) -> Standstill:
        """With one more reading, and the pause that follows from it."""
        seen = view.snapshot if view else None
        if seen is None or pause is None or not pause.by_gauge:
            return Standstill()
        counters = _counters(seen)
        return self if counters == self.counters else Standstill(counters, now)

    def lasts(self, now: float) -> bool:
        """Whether it has lasted so long that the gauges cannot be right."""
        return now - self.since >= STANDSTILL_SECONDS


_BY_GAUGE = frozenset({PauseReason.QUEUE, PauseReason.USAGE})


def _counters(seen: EngineSnapshot) -> tuple[float | None, ...]:
    """What changes while an engine works, or restarts."""
    return (seen.process_start_time, *seen.work_counters, seen.queried_tokens, seen.preemptions)


def session_tokens(result: SessionResult) -> int:
    """The charge for a session: all its known tokens, and a guess for each unknown turn.

    A failed turn that may have reached the engine is charged like the turn before it.
    """
    charged = [_turn_tokens(turn) for turn in result.turns]
    total = sum(charged) + result.extra_tokens
    failure = result.failure
    if failure is not None and result.failed_turn is not None and failure.reason.may_have_arrived:
        total += charged[-1] if charged else UNKNOWN_TURN_TOKENS
    return total


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
