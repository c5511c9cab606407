"""What the supervisor may do, and how patient it is: plain values, made from the settings."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.engine.wire.refusal import says_it_rests
from exporter.model.failure import Failure, FailureReason


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds, counts and permissions for one target.

    `managed`: the container is ours to make and to remove. `may_restart`: a container that ended
    or is unhealthy may be stopped and started; without it a managed one is started once and then
    only watched.
    """

    managed: bool = True
    may_restart: bool = True
    recreate_on_drift: bool = False
    # A start may take this long. As long as its log tells of progress it may take twice as long:
    # ending a load that goes on would only make the next one start from nothing.
    start_deadline_seconds: float = 1800.0
    # A start whose log says nothing for this long hangs. Reading weights from slow storage prints
    # a bar that has no line ends, so the silence of a healthy start can last minutes.
    quiet_deadline_seconds: float = 600.0
    # Somebody paused the container, or something did: time for them to go on by themselves.
    paused_deadline_seconds: float = 60.0
    health_failures: int = 3
    probe_failures: int = 3  # 0: probes never make it unhealthy
    # A running container is stopped for failed checks at most so often within an hour.
    restarts_per_hour: int = 3
    first_delay_seconds: float = 5.0
    delay_factor: float = 2.0
    longest_delay_seconds: float = 300.0
    jitter_ratio: float = 0.1
    stable_seconds: float = 600.0
    # After an action Docker needs a moment until it shows: the same one is not asked for again
    # within this time while nothing has changed.
    patience_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What one decision is made under: the time, the policy, and a chance from 0 to 1."""

    now: float
    policy: Policy
    jitter: float


# Failures of a probe session that speak of an engine that is ill. The others speak of a wrong
# question, of too much work (a restart would make that worse) or of our own mistake.
ILLNESS: frozenset[FailureReason] = frozenset(
    {
        FailureReason.CONNECTION_REFUSED,
        FailureReason.CONNECT_TIMEOUT,
        FailureReason.FIRST_TOKEN_TIMEOUT,
        FailureReason.STALLED,
        FailureReason.TURN_TIMEOUT,
        FailureReason.STREAM_CUT,
        FailureReason.STREAM_ERROR,
        FailureReason.ABORTED,
        FailureReason.SERVER_ERROR,
    }
)

HOUR = 3600.0
# It takes two pages of an engine's /metrics to see it work. Where they come more seldom than this
# nothing waits for them.
PAGES_WITHIN_SECONDS = 120.0
# An engine that has been seen to take this long for a healthy answer may take so many times as long
# before it counts as silent.
SLACK = 3.0
# The longest wait for one answer of /health, where the settings do not ask for a longer one.
LONGEST_HEALTH_SECONDS = 30.0


def speaks_of_illness(failure: Failure) -> bool:
    """Whether a failed session says that the engine is ill."""
    return failure.reason in ILLNESS and not says_it_rests(failure.detail)


def health_deadline(configured: float, slowest: float, failures: int) -> float:
    """Seconds that /health may take, `slowest` being the longest healthy answer so far.

    After each failed look the next one waits twice as long: an answer that comes late tells a slow
    engine from a dead one.
    """
    patient = max(configured, SLACK * slowest) * 2.0 ** min(failures, 2)
    return max(configured, min(patient, LONGEST_HEALTH_SECONDS))


def delay_after(failures: int, policy: Policy, jitter: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1…), `jitter` from 0 to 1.

    It grows by the factor up to the longest delay. Jitter only shortens it, by at most its ratio,
    so that no delay is longer than the longest and a fleet at the cap is still out of step.
    """
    delay = policy.first_delay_seconds
    for _ in range(failures - 1):
        if delay >= policy.longest_delay_seconds or policy.delay_factor <= 1.0:
            break
        delay *= policy.delay_factor
    return min(delay, policy.longest_delay_seconds) * (1.0 - policy.jitter_ratio * jitter)
