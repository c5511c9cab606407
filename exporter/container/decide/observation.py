"""The records between observing a container and acting on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from exporter.container.decide.activity import Activity
from exporter.model.failure import RESTS, FailureReason

if TYPE_CHECKING:
    from exporter.container.decide.log.loading import LoadProgress
    from exporter.container.decide.records import (
        Cause,
        ContainerSnapshot,
        DockerProblem,
        LifecycleState,
    )
    from exporter.model.failure import Failure


class Health(StrEnum):
    """The result of one check of /health."""

    OK = "ok"
    FAILED = "failed"  # the engine reports an error, or does not answer on an open port
    UNREACHABLE = "unreachable"  # vLLM does not answer at this address
    NOT_ASKED = "not_asked"


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """One check of /health; `detail` says why it failed. `suspended`: paused or being scaled."""

    health: Health
    detail: str = ""
    suspended: bool = False


# vLLM reports an error (503; 500 in other servers), or does not answer on an open port.
_ENGINE_FAILURES = frozenset(
    {FailureReason.OVERLOADED, FailureReason.SERVER_ERROR, FailureReason.TURN_TIMEOUT}
)


def failed_health(failure: Failure) -> HealthAnswer:
    """The result of a check of /health that was not answered with 200.

    UNREACHABLE where a wrong address alone explains it: nothing listens, the name is unknown, TLS
    fails, or another server answers.
    """
    if failure.reason is FailureReason.NO_DESCRIPTORS:
        return HealthAnswer(Health.NOT_ASKED)  # the exporter could not even ask
    suspended = failure.reason in RESTS
    answered = suspended or failure.reason in _ENGINE_FAILURES
    health = Health.FAILED if answered else Health.UNREACHABLE
    return HealthAnswer(health, failure.detail, suspended=suspended)


class Action(StrEnum):
    """What the supervisor does after one observation, before the next."""

    NOTHING = "nothing"
    PULL = "pull"
    CREATE = "create"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"
    UNPAUSE = "unpause"


@dataclass(frozen=True, slots=True)
class Observation:
    """The container and its engine at one time. None: not asked, or not known.

    `docker` is why Docker did not answer; then nothing else is known. `ours` is False where this
    exporter did not create the container of that name for this target; `other_exporter`: another
    exporter created it, for a target of the same name. `image_present`: the image of the settings
    is on Docker's host. `suspended`: the engine sleeps, is paused or is being scaled.
    `running_seconds` is the age of the run by Docker's clock. `log` is None where the log cannot
    be read.
    """

    docker: DockerProblem | None = None
    container: ContainerSnapshot | None = None
    ours: bool = True
    other_exporter: bool = False
    image_present: bool | None = None
    drifted: bool | None = None
    health: Health = Health.NOT_ASKED
    activity: Activity = field(default_factory=Activity)
    suspended: bool = False
    running_seconds: float | None = None
    log: LoadProgress | None = None
    held: bool = False


# One run of a container: its id, and the time of its start by Docker's clock. Another start of
# the same container is another run.
RunKey = tuple[str, float | None]


def run_key(container: ContainerSnapshot) -> RunKey:
    """The run in a snapshot."""
    return (container.id, container.started_time)


@dataclass(frozen=True, slots=True)
class Run:
    """The current run. Its times are in seconds of the time in which Docker answered.

    `counts_as_up`: when first observed, it was older than the start deadline. `health_failures`
    counts failed checks of /health in a row since the engine last showed work; the first of them
    was at `failing_since` (caller's clock). `slow_checks` counts the failed checks of the same row
    before that. `unreachable`: in the last of them vLLM did not answer.
    """

    key: RunKey
    started_at: float
    last_line_at: float
    last_progress_at: float  # the last log line that shows progress of a start
    lines: int = 0
    progress_lines: int = 0
    health_failures: int = 0
    failing_since: float | None = None
    slow_checks: int = 0
    unreachable: bool = False
    counts_as_up: bool = False
    ever_ready: bool = False
    ready_since: float | None = None
    paused_since: float | None = None


@dataclass(frozen=True, slots=True)
class PendingAction:
    """The last action that the supervisor asked Docker for, and the run that it was for."""

    action: Action
    key: RunKey | None
    at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a decision knows of the past. A new daemon starts with an empty one.

    `initialised`: at least one observation is in it. `last_seen_id` is the container of the last
    observation, `created_id` the one that this supervisor created last, `reached_id` the one that
    answered at the target's address. `counted_exit` is the last run whose end was counted. `cause`
    is why the next start is needed, `failures` how many there were in a row. `stop_times` are the
    stops for failed checks within the last hour. `last_observed`, `not_before` and `stop_times`
    are times of the caller's clock.
    """

    initialised: bool = False
    last_observed: float | None = None
    docker_silent: bool = False
    silent_seconds: float = 0.0
    last_seen_id: str | None = None
    any_run_seen: bool = False
    run: Run | None = None
    counted_exit: RunKey | None = None
    pending_action: PendingAction | None = None
    failures: int = 0
    not_before: float | None = None
    cause: Cause | None = None
    created_id: str | None = None
    stop_times: tuple[float, ...] = ()
    reached_id: str | None = None


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run was observed for the first time.

    `adopted`: it was running before the first observation. `again`: another run was before it.
    """

    by_us: bool
    adopted: bool
    again: bool


@dataclass(frozen=True, slots=True)
class CountedFailure:
    """A failure that this decision counted. `in_start`: the run never became ready."""

    cause: Cause
    in_start: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of an observation. `cause`: why it is unhealthy, or why the action is taken."""

    state: LifecycleState
    action: Action = Action.NOTHING
    container_id: str | None = None
    not_before: float | None = None
    cause: Cause | None = None
    failed: CountedFailure | None = None
    started: StartedRun | None = None
    became_ready: bool = False
    memory: Memory = field(default_factory=Memory)
