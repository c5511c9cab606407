"""Limits the load on an engine: whether the probe may send a request now, and if not, why.

The token budget counts the same tokens as `vllm_probe_consumed_tokens_total`: all prompt and
completion tokens, also the cached ones. The engine computes fewer, but these tokens are known on
every server, and a user can compare the budget with the counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from exporter.analysis.footprint import HOUR
from exporter.model.probe import PauseReason

if TYPE_CHECKING:
    from exporter.analysis.footprint import LastHour, UsersTraffic
    from exporter.model.engine import EngineSnapshot, EngineView
    from exporter.model.session import SessionResult, TurnFacts

RECHECK_SECONDS = 5.0
"""Seconds until the probe looks again at a busy engine."""
USERS_RECHECK_SECONDS = 60.0
"""Seconds until the probe looks again at what users ask."""
PAUSED_SECONDS = 60.0
"""Seconds without a request after the engine said that it is paused or being scaled."""
STANDSTILL_SECONDS = 60.0
"""If the counters of a busy engine stay the same for so long, it is stuck, or its gauges are."""
UNKNOWN_TURN_TOKENS = 3000
"""The charge for a turn of unknown length: more than any turn of the built-in scenario takes."""


HEARTBEAT_SHARE = 7 / 8
"""The most of a budget that heartbeats take. Sessions get the rest, so that they never stop."""
BURST_SECONDS = 900.0
BURST_SHARE = 0.3
"""The most of an hour's footprint that falls into one quarter of it: 3 % of the cache at a limit of
10 % per hour. So an agent that pauses for so long finds at least 97 % of its prompt."""


class Work(Enum):
    """What the probe sends. Heartbeats come first, because they show that a cache is dead."""

    SESSION = auto()
    HEARTBEAT = auto()
    ON_DEMAND = auto()  # a session that a client asked for
    OTHER = auto()  # isolation tests and retention


class LoadPolicy(Protocol):
    """The limits on the load, a part of `exporter.config.ProbeSettings`. 0 tokens, seconds or
    turnover are no limit, and neither is a share of 1.
    """

    tokens_per_hour: int
    max_cache_turnover_per_hour: float
    quiet_after_seconds: float
    max_prefill_share_ratio: float
    max_waiting_requests: int
    max_kv_cache_usage_ratio: float


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """When the next session may start (`free_at`, monotonic seconds).

    With a budget of N tokens per hour, each token that was spent moves `free_at` by 1/N of an hour.
    So the sessions of any hour cost at most the budget, plus what the last of them goes beyond it.
    """

    free_at: float = float("-inf")

    def spend(self, tokens: int, now: float, tokens_per_hour: float) -> TokenBudget:
        """The budget after a session or test that ended at `now` and cost `tokens`."""
        if tokens_per_hour <= 0:
            return self
        return TokenBudget(max(self.free_at, now) + tokens * HOUR / tokens_per_hour)

    def seconds_left(self, now: float) -> float:
        """Seconds until the next session may start."""
        return max(0.0, self.free_at - now)

    def under_limit(self, now: float, *, before: float, tokens_per_hour: float) -> TokenBudget:
        """The same spent tokens under a new budget; none are left without a limit."""
        if before == 0 or tokens_per_hour == 0:
            return TokenBudget()
        return TokenBudget(now + self.seconds_left(now) * before / tokens_per_hour)


@dataclass(frozen=True, slots=True)
class SharedBudget:
    """A budget of which heartbeats come first: they wait only for their own share of it.

    All tokens count for `all_work`, those of heartbeats also for `heartbeats`. So sessions get what
    heartbeats leave, and together they stay within the budget.
    """

    all_work: TokenBudget = TokenBudget()
    heartbeats: TokenBudget = TokenBudget()

    def spend(self, work: Work, tokens: int, now: float, per_hour: float) -> SharedBudget:
        """The budget after work that ended at `now` and cost `tokens`; 0 per hour is no limit."""
        beats = self.heartbeats
        if work is Work.HEARTBEAT:
            beats = beats.spend(tokens, now, per_hour * HEARTBEAT_SHARE)
        return SharedBudget(self.all_work.spend(tokens, now, per_hour), beats)

    def seconds_left(self, work: Work, now: float) -> float:
        """Seconds until such work may start."""
        budget = self.heartbeats if work is Work.HEARTBEAT else self.all_work
        return budget.seconds_left(now)

    def under_limit(self, now: float, *, before: float, tokens_per_hour: float) -> SharedBudget:
        """The same spent tokens under a new budget; none are left without a limit."""
        return SharedBudget(
            *(
                each.under_limit(now, before=before, tokens_per_hour=tokens_per_hour)
                for each in (self.all_work, self.heartbeats)
            )
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """Do not start now, for this `reason`; check again in `seconds`."""

    reason: PauseReason
    seconds: float

    @property
    def by_gauge(self) -> bool:
        """Whether gauges demand it, which can be stuck."""
        return self.reason in _BY_GAUGE


def budget_pause(
    tokens: SharedBudget, footprint: SharedBudget, work: Work, now: float
) -> Pause | None:
    """The longer pause that the budgets of tokens and of the footprint demand; None if none."""
    pauses = [
        Pause(reason, seconds)
        for reason, budget in (
            (PauseReason.BUDGET, tokens),
            (PauseReason.FOOTPRINT, footprint),
        )
        if (seconds := budget.seconds_left(work, now)) > 0
    ]
    return max(pauses, key=lambda pause: pause.seconds, default=None)


def burst_pause(
    heartbeats: LastHour, others: LastHour, expected: int, per_hour: float, now: float
) -> Pause | None:
    """The pause of all but heartbeats while their last quarter of an hour leaves no room.

    Both are the tokens that were written, and `expected` are those that would be. 0 `per_hour` is
    no limit. Work that never fits starts once a quarter of an hour has nothing else of its kind.
    """
    if per_hour <= 0:
        return None
    room = per_hour * BURST_SHARE - heartbeats.total(now, BURST_SECONDS)
    seconds = others.seconds_until_room(expected, room, BURST_SECONDS, now)
    return Pause(PauseReason.FOOTPRINT, seconds) if seconds > 0 else None


def users_pause(
    traffic: UsersTraffic, policy: LoadPolicy, expected_tokens: int, now: float
) -> Pause | None:
    """The pause that users' traffic demands of all but heartbeats: there is none, or it is heavy.

    `expected_tokens` are those that the engine would have to compute.
    """
    if 0 < policy.quiet_after_seconds <= traffic.quiet_for(now):
        return Pause(PauseReason.QUIET, USERS_RECHECK_SECONDS)
    share = traffic.share_with(expected_tokens)
    if traffic.busy(now) and share > policy.max_prefill_share_ratio:
        return Pause(PauseReason.SHARE, USERS_RECHECK_SECONDS)
    return None


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
