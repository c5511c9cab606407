"""The records between looking at a container and acting on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from exporter.container.decide.activity import Activity
from exporter.model.failure import FailureReason

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
    """What /health said in this round."""

    OK = "ok"
    FAILED = "failed"  # it says that it is ill, or is silent on an open port
    UNREACHABLE = "unreachable"  # nothing of vLLM's answers at this address
    NOT_ASKED = "not_asked"


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """What /health said, in words where it failed. `at_rest`: it is paused or being scaled."""

    health: Health
    detail: str = ""
    at_rest: bool = False


# vLLM's own word (503; 500 in other servers), and silence on an open port.
_OF_AN_ILL_ENGINE = frozenset(
    {FailureReason.OVERLOADED, FailureReason.SERVER_ERROR, FailureReason.TURN_TIMEOUT}
)


def failed_health(failure: Failure) -> HealthAnswer:
    """What an answer of /health other than 200 says.

    What only a wrong address need explain (nothing listens, the name is unknown, TLS fails, another
    server answers) does not speak of the engine.
    """
    if failure.reason is FailureReason.NO_DESCRIPTORS:
        return HealthAnswer(Health.NOT_ASKED)  # the exporter could not even ask
    at_rest = failure.reason is FailureReason.PAUSED
    answered = at_rest or failure.reason in _OF_AN_ILL_ENGINE
    health = Health.FAILED if answered else Health.UNREACHABLE
    return HealthAnswer(health, failure.detail, at_rest=at_rest)


class Action(StrEnum):
    """The one thing that is done after a look, before the next look."""

    NOTHING = "nothing"
    PULL = "pull"
    CREATE = "create"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"
    UNPAUSE = "unpause"


@dataclass(frozen=True, slots=True)
class Observation:
    """One look. Whatever Docker was not asked, or could not say, is None.

    `docker` is why Docker could not be observed; then nothing else of it is known. `ours` is
    False where a container has the name and was not made by us for this target;
    `other_exporter`: another exporter made it for a target of the same name. `image_present`
    is about the image that a container would be made from. `activity` is what is known of the
    engine's work in this run, and `at_rest` says that it sleeps, is paused or is being scaled.
    `running_seconds` is the age of the run by Docker's word. `log` is what this run has written,
    None where the log cannot be read.
    """

    docker: DockerProblem | None = None
    container: ContainerSnapshot | None = None
    ours: bool = True
    other_exporter: bool = False
    image_present: bool | None = None
    drifted: bool | None = None
    health: Health = Health.NOT_ASKED
    activity: Activity = field(default_factory=Activity)
    at_rest: bool = False
    running_seconds: float | None = None
    log: LoadProgress | None = None
    held: bool = False


# One run of a container: its id and when Docker says that it was started. A container that is
# started again is the same container and another run.
RunKey = tuple[str, float | None]


def run_key(container: ContainerSnapshot) -> RunKey:
    """The run that a snapshot shows."""
    return (container.id, container.started_time)


@dataclass(frozen=True, slots=True)
class Run:
    """What is remembered of the run that goes on. Times count only while Docker answered.

    `past_start`: it was older than a start may take when it was first met, so it counts as up.
    `health_failures` counts the failed looks at /health in a row since the engine was last seen at
    work, the first of them at `failing_since` of the caller's clock; `slow_looks` counts those of
    the same row before that. `unreachable`: the last of them met nothing of vLLM's.
    """

    key: RunKey
    began: float
    line_at: float  # when its log last said anything
    mark_at: float  # when its log last told of progress
    lines: int = 0
    marks: int = 0
    health_failures: int = 0
    failing_since: float | None = None
    slow_looks: int = 0
    unreachable: bool = False
    past_start: bool = False
    ever_ready: bool = False
    ready_since: float | None = None
    paused_since: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The last thing that we asked Docker for, and the run that it was about."""

    action: Action
    key: RunKey | None
    at: float


@dataclass(frozen=True, slots=True)
class Memory:
    """All that a decision knows of the past. A new one is what a new daemon begins with.

    `had` is the container that was there at the last look, `ran` whether any run was seen,
    `ended` the last run whose end was accounted for, `cause` why the next start is needed, `made`
    the container that our own last create brought forth. `not_before` is a time of the caller's
    clock, as `last_look` is, and as those in `stops` are: when it was last stopped for failed
    checks, within an hour. `reached` is the container that has answered at the target's address.
    """

    known: bool = False
    last_look: float | None = None
    silent: bool = False
    silent_seconds: float = 0.0
    had: str | None = None
    ran: bool = False
    run: Run | None = None
    ended: RunKey | None = None
    asked: Asked | None = None
    failures: int = 0
    not_before: float | None = None
    cause: Cause | None = None
    made: str | None = None
    stops: tuple[float, ...] = ()
    reached: str | None = None


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run was seen for the first time.

    `adopted`: it went on already when we first looked. `again`: another run was seen before it.
    """

    by_us: bool
    adopted: bool
    again: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure that was counted in this round. `in_start`: the run never became ready."""

    cause: Cause
    in_start: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What a look led to. `cause` says why it is not well, or why the action is taken."""

    state: LifecycleState
    action: Action = Action.NOTHING
    container_id: str | None = None
    not_before: float | None = None
    cause: Cause | None = None
    failed: Failed | None = None
    started: StartedRun | None = None
    became_ready: bool = False
    memory: Memory = field(default_factory=Memory)
