"""What the supervisor may do, and after how many failures and seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from exporter.engine.wire.refusal import rest_in
from exporter.model.failure import Failure, FailureReason


class Backoff(Protocol):
    """`exporter.config.BackoffSettings`."""

    initial_seconds: float
    max_seconds: float
    factor: float
    jitter_ratio: float
    reset_after_seconds: float


class SupervisionSettings(Protocol):
    """What a decision reads of `exporter.config.ContainerSettings`; it documents each value."""

    start_deadline_seconds: float
    quiet_deadline_seconds: float
    paused_deadline_seconds: float
    health_failures: int
    probe_failures: int
    restarts_per_hour: int
    on_drift: Literal["report", "recreate"]

    @property
    def backoff(self) -> Backoff: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the supervisor may do to one target's container.

    `managed`: it may create and remove the container. `may_restart`: it may stop and start a
    container that exited or is unhealthy. Without it a managed container is started once and then
    only watched.
    """

    managed: bool
    may_restart: bool
    settings: SupervisionSettings


@dataclass(frozen=True, slots=True)
class Context:
    """Inputs of a decision beside the observation. `jitter` is a random number from 0 to 1."""

    now: float
    policy: Policy
    jitter: float


# Failures of a probe session that show a broken engine. Other failures show a wrong request, an
# overload (which a restart makes worse) or a mistake of the exporter.
ENGINE_FAILURES: frozenset[FailureReason] = frozenset(
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
# Docker needs a moment until an action shows: the same action is not repeated sooner than this
# while nothing has changed.
REPEAT_SECONDS = 10.0
# Two pages of an engine's /metrics are needed to see whether it works. Decisions do not wait
# longer than this for the next page.
MAX_PAGE_WAIT_SECONDS = 120.0
# An engine may take this many times the duration of its slowest healthy answer before it counts
# as silent.
SLOWNESS_FACTOR = 3.0
# The longest timeout of /health, unless the settings have a longer one.
LONGEST_HEALTH_SECONDS = 30.0


def is_engine_failure(failure: Failure) -> bool:
    """Whether a failed session shows a broken engine."""
    return failure.reason in ENGINE_FAILURES and rest_in(failure.detail) is None


def health_deadline(configured: float, slowest: float, failures: int) -> float:
    """The timeout of /health in seconds; `slowest` is the longest healthy answer so far.

    It doubles after each failed check: a late answer shows that the engine is slow, not dead.
    """
    wanted = max(configured, SLOWNESS_FACTOR * slowest) * 2.0 ** min(failures, 2)
    return max(configured, min(wanted, LONGEST_HEALTH_SECONDS))


def delay_after(failures: int, backoff: Backoff, jitter: float) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1…), `jitter` from 0 to 1.

    It grows by `factor` up to `max_seconds`. Jitter only shortens it, by at most `jitter_ratio`:
    no delay exceeds the maximum, and a fleet at the maximum still does not start at the same time.
    """
    delay = backoff.initial_seconds
    for _ in range(failures - 1):
        if delay >= backoff.max_seconds or backoff.factor <= 1.0:
            break
        delay *= backoff.factor
    return min(delay, backoff.max_seconds) * (1.0 - backoff.jitter_ratio * jitter)
