"""What to do about a container: one observation and the memory give one decision.

`classify` names the situation; the table says its state and the action.

Invariants of every decision, which the tests check:

- Nothing is done while an operator holds the target or while Docker does not answer. Neither counts
  as a failure, and time without Docker counts towards no deadline.
- At most one action follows an observation, and another observation comes before the next action.
  The same action is not repeated within `REPEAT_SECONDS` while nothing has changed.
- Every end of a run that the supervisor did not ask for is a failure, exit code 0 too, and so is a
  removal. Each is counted once, however often it is observed.
- A start or a creation comes no sooner than the delay after the last failure. The delay grows with
  each failure in a row up to a maximum, and starts again after a stable time.
- A start is not stopped while its log shows progress, until twice its deadline.
- A working engine is not stopped: while its own counters advance it is busy, whatever /health and
  the probes say. Nor is one that sleeps, is paused or is being scaled.
- A running container is stopped for failed checks at most `restarts_per_hour` times within an hour.
- A container that is up and never answered at the target's address is not touched: the address is
  wrong.
- A run that is in progress at the first observation is adopted as it is: a restart of the exporter
  restarts nothing. A stopped container is started.
- A paused container is not killed. After a while it is unpaused.
- A container that is not ours is never touched. An attached one is never created or removed, and
  stopped or started only if that is allowed.
- A running container is created again for changed settings only if the settings say so, only while
  it is ready, only when the new image is present, and never twice for one creation. A stopped
  container is created again before its next start: nothing is lost.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from exporter.container.decide.accounting import (
    MemoryUpdate,
    account,
    counted_time,
    fail,
    pass_time,
)
from exporter.container.decide.checks import failed_check, is_up
from exporter.container.decide.observation import (
    Action,
    CountedFailure,
    Decision,
    Memory,
    PendingAction,
    run_key,
)
from exporter.container.decide.policy import HOUR, REPEAT_SECONDS
from exporter.container.decide.records import Cause, ContainerStatus, LifecycleState

if TYPE_CHECKING:
    from exporter.container.decide.observation import Observation, Run, RunKey
    from exporter.container.decide.policy import Context, Policy
    from exporter.container.decide.records import ContainerSnapshot

S = LifecycleState
# A start whose log shows progress may take this many times its deadline.
EXTENSION = 2.0


class Situation(Enum):
    """What an observation shows, given the memory."""

    HELD = auto()
    DOCKER_SILENT = auto()
    FOREIGN = auto()
    OF_ANOTHER_EXPORTER = auto()
    ABSENT = auto()
    ABSENT_NO_IMAGE = auto()
    ABSENT_WAITING = auto()
    DOWN = auto()
    DOWN_WAITING = auto()
    DOWN_OUTDATED = auto()
    DOWN_OUTDATED_NO_IMAGE = auto()
    DEAD = auto()
    BEING_REMOVED = auto()
    RESTARTED_BY_DOCKER = auto()
    BEING_STOPPED = auto()
    PAUSED = auto()
    PAUSED_LONG = auto()
    LOADING = auto()
    HANGING = auto()
    TOO_LATE = auto()
    HEALTHY = auto()
    OUTDATED = auto()
    OUTDATED_NO_IMAGE = auto()
    HEALTH_FAILS = auto()
    PROBES_FAIL = auto()
    BUSY = auto()
    NOT_REACHED = auto()
    STOPPED_TOO_OFTEN = auto()


class Right(Enum):
    """What must hold for an action to be allowed."""

    NONE = auto()
    OWN = auto()  # the container is ours
    RAISE = auto()  # restarts are allowed, or it is ours and nothing has failed yet
    MAKE = auto()  # it is ours, and RAISE
    REPAIR = auto()  # restarts are allowed


class Row(NamedTuple):
    """A state, its action, and the state where the action is not allowed."""

    state: LifecycleState
    action: Action = Action.NOTHING
    right: Right = Right.NONE
    cause: Cause | None = None
    otherwise: LifecycleState | None = None


TABLE: dict[Situation, Row] = {
    Situation.HELD: Row(S.HELD),
    Situation.DOCKER_SILENT: Row(S.UNKNOWN),
    Situation.FOREIGN: Row(S.ABSENT, cause=Cause.NAME_TAKEN),
    Situation.OF_ANOTHER_EXPORTER: Row(S.ABSENT, cause=Cause.OTHER_EXPORTER),
    Situation.ABSENT: Row(S.CREATING, Action.CREATE, Right.MAKE, None, S.ABSENT),
    Situation.ABSENT_NO_IMAGE: Row(S.PULLING, Action.PULL, Right.MAKE, None, S.ABSENT),
    Situation.ABSENT_WAITING: Row(S.BACKING_OFF, right=Right.MAKE, otherwise=S.ABSENT),
    Situation.DOWN: Row(S.STARTING, Action.START, Right.RAISE, None, S.UNHEALTHY),
    Situation.DOWN_WAITING: Row(S.BACKING_OFF, right=Right.RAISE, otherwise=S.UNHEALTHY),
    Situation.DOWN_OUTDATED: Row(S.CREATING, Action.REMOVE, Right.MAKE, None, S.UNHEALTHY),
    Situation.DOWN_OUTDATED_NO_IMAGE: Row(S.PULLING, Action.PULL, Right.MAKE, None, S.UNHEALTHY),
    Situation.DEAD: Row(S.CREATING, Action.REMOVE, Right.MAKE, None, S.UNHEALTHY),
    Situation.BEING_REMOVED: Row(S.STOPPING),
    Situation.RESTARTED_BY_DOCKER: Row(S.BACKING_OFF),
    Situation.BEING_STOPPED: Row(S.STOPPING),
    Situation.PAUSED: Row(S.UNHEALTHY, cause=Cause.PAUSED),
    Situation.PAUSED_LONG: Row(
        S.UNHEALTHY, Action.UNPAUSE, Right.REPAIR, Cause.PAUSED, S.UNHEALTHY
    ),
    Situation.LOADING: Row(S.STARTING),
    Situation.HANGING: Row(
        S.UNHEALTHY, Action.STOP, Right.REPAIR, Cause.LOADING_HANGS, S.UNHEALTHY
    ),
    Situation.TOO_LATE: Row(
        S.UNHEALTHY, Action.STOP, Right.REPAIR, Cause.START_TIMEOUT, S.UNHEALTHY
    ),
    Situation.HEALTHY: Row(S.READY),
    Situation.OUTDATED: Row(S.READY, Action.STOP, Right.OWN, Cause.CONFIG_CHANGED, S.READY),
    Situation.OUTDATED_NO_IMAGE: Row(S.READY, Action.PULL, Right.OWN, None, S.READY),
    Situation.HEALTH_FAILS: Row(
        S.UNHEALTHY, Action.STOP, Right.REPAIR, Cause.HEALTH_FAILED, S.UNHEALTHY
    ),
    Situation.PROBES_FAIL: Row(
        S.UNHEALTHY, Action.STOP, Right.REPAIR, Cause.PROBES_FAILED, S.UNHEALTHY
    ),
    Situation.BUSY: Row(S.BUSY, cause=Cause.BUSY),
    Situation.NOT_REACHED: Row(S.UNHEALTHY, cause=Cause.ADDRESS),
    Situation.STOPPED_TOO_OFTEN: Row(S.UNHEALTHY, cause=Cause.RESTART_LIMIT),
}

# The state during an action.
UNDER_WAY: dict[Action, LifecycleState] = {
    Action.PULL: S.PULLING,
    Action.CREATE: S.CREATING,
    Action.START: S.STARTING,
    Action.STOP: S.STOPPING,
    Action.REMOVE: S.CREATING,
    Action.UNPAUSE: S.UNHEALTHY,
}

_BY_CHECK = {
    Cause.HEALTH_FAILED: Situation.HEALTH_FAILS,
    Cause.PROBES_FAILED: Situation.PROBES_FAIL,
    Cause.BUSY: Situation.BUSY,
    Cause.ADDRESS: Situation.NOT_REACHED,
}

# A stop for one of these is a failure of the run that it ends.
_STOP_REASONS = frozenset(
    {Cause.LOADING_HANGS, Cause.START_TIMEOUT, Cause.HEALTH_FAILED, Cause.PROBES_FAILED}
)


def decide(memory: Memory, seen: Observation, context: Context) -> Decision:
    """The decision for one observation.

    `Decision.memory` is the memory for the next decision. Its `pending_action` is the action of
    this one: call `accounting.action_failed` if it did not work.
    """
    if seen.held:
        # What an operator does is no failure: afterwards everything is observed for the first time.
        return Decision(S.HELD, memory=Memory(created_id=memory.created_id))
    memory = pass_time(memory, context.now, silent=seen.docker is not None)
    if seen.docker is not None:
        return Decision(S.UNKNOWN, memory=memory)
    update = account(memory, seen, context)
    return _act(classify(update.memory, seen, context.now, context.policy), update, seen, context)


def classify(memory: Memory, seen: Observation, now: float, policy: Policy) -> Situation:
    """The situation of an observation that `account` has added to the memory."""
    container = seen.container
    if container is not None and policy.managed and not seen.ours:
        return Situation.OF_ANOTHER_EXPORTER if seen.other_exporter else Situation.FOREIGN
    waiting = memory.not_before is not None and now < memory.not_before
    if container is None:
        return _absent(seen, policy, waiting=waiting)
    if container.status is ContainerStatus.PAUSED:
        return _paused(memory, policy, waiting=waiting)
    if container.status is ContainerStatus.RUNNING:
        if waiting and _asked_to_stop(memory, run_key(container)):
            return Situation.BEING_STOPPED
        situation = _running(memory, seen, container, now, policy)
        return _within_the_limit(situation, memory, container, now, policy)
    return _down(memory, seen, container, policy, waiting=waiting)


def _absent(seen: Observation, policy: Policy, *, waiting: bool) -> Situation:
    if waiting and policy.managed:
        return Situation.ABSENT_WAITING
    return Situation.ABSENT_NO_IMAGE if seen.image_present is False else Situation.ABSENT


def _paused(memory: Memory, policy: Policy, *, waiting: bool) -> Situation:
    run = memory.run
    since = run.paused_since if run is not None else None
    if since is None or waiting:
        return Situation.PAUSED
    long = counted_time(memory) - since >= policy.settings.paused_deadline_seconds
    return Situation.PAUSED_LONG if long else Situation.PAUSED


def _down(
    memory: Memory,
    seen: Observation,
    container: ContainerSnapshot,
    policy: Policy,
    *,
    waiting: bool,
) -> Situation:
    if container.status is ContainerStatus.REMOVING:
        return Situation.BEING_REMOVED
    if container.status is ContainerStatus.RESTARTING:
        return Situation.RESTARTED_BY_DOCKER
    if waiting:
        return Situation.DOWN_WAITING
    if container.status is ContainerStatus.DEAD:
        return Situation.DEAD
    if policy.managed and _is_outdated(memory, seen, container):
        if seen.image_present is False:
            return Situation.DOWN_OUTDATED_NO_IMAGE
        return Situation.DOWN_OUTDATED
    return Situation.DOWN


def _is_outdated(memory: Memory, seen: Observation, container: ContainerSnapshot) -> bool:
    """A container that this supervisor created is never outdated: that would never end."""
    return seen.drifted is True and container.id != memory.created_id


def _running(
    memory: Memory,
    seen: Observation,
    container: ContainerSnapshot,
    now: float,
    policy: Policy,
) -> Situation:
    run = memory.run
    if run is None:  # cannot happen after `account`
        return Situation.LOADING
    reached = memory.reached_id == container.id
    failing = failed_check(run, seen, now, policy, reached=reached)
    if failing is not None:
        return _BY_CHECK[failing]
    if not run.ever_ready:
        if is_up(run, seen):
            return Situation.LOADING  # until enough checks of /health have failed
        return _loading(run, seen, counted_time(memory), policy)
    if policy.settings.on_drift == "recreate" and _is_outdated(memory, seen, container):
        if seen.image_present is not False:
            return Situation.OUTDATED
        waiting = memory.not_before is not None and now < memory.not_before
        return Situation.HEALTHY if waiting else Situation.OUTDATED_NO_IMAGE
    return Situation.HEALTHY


def _within_the_limit(
    situation: Situation,
    memory: Memory,
    container: ContainerSnapshot,
    now: float,
    policy: Policy,
) -> Situation:
    """The situation, or STOPPED_TOO_OFTEN where the limit does not allow its action."""
    row = TABLE[situation]
    limited = row.cause in _STOP_REASONS and _is_allowed(row.right, memory, policy)
    if not limited or _asked_to_stop(memory, run_key(container)):
        return situation
    spent = len(_recent(memory.stop_times, now)) >= policy.settings.restarts_per_hour
    return Situation.STOPPED_TOO_OFTEN if spent else situation


def _recent(stops: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in stops if now - at < HOUR)


def _loading(run: Run, seen: Observation, time: float, policy: Policy) -> Situation:
    quiet_seconds = policy.settings.quiet_deadline_seconds
    deadline = policy.settings.start_deadline_seconds
    if seen.log is not None and time - run.last_line_at >= quiet_seconds:
        return Situation.HANGING
    took = time - run.started_at
    if took < deadline:
        return Situation.LOADING
    progresses = seen.log is not None and time - run.last_progress_at < quiet_seconds
    if progresses and took < EXTENSION * deadline:
        return Situation.LOADING
    return Situation.TOO_LATE


def _is_allowed(right: Right, memory: Memory, policy: Policy) -> bool:
    return {
        Right.NONE: True,
        Right.OWN: policy.managed,
        Right.RAISE: policy.may_restart or (policy.managed and memory.failures == 0),
        Right.MAKE: policy.managed and (policy.may_restart or memory.failures == 0),
        Right.REPAIR: policy.may_restart,
    }[right]


def _act(
    situation: Situation, update: MemoryUpdate, seen: Observation, context: Context
) -> Decision:
    row, memory, failed = TABLE[situation], update.memory, update.failed
    key = run_key(seen.container) if seen.container is not None else None
    allowed = _is_allowed(row.right, memory, context.policy)
    action = row.action if allowed else Action.NOTHING
    if action is not Action.NOTHING and _asked_just_now(memory, action, key, context):
        action = Action.NOTHING
    if action is not Action.NOTHING:
        memory, failed = _ask(row, key, memory, failed, context)
    elif situation is Situation.HEALTHY and _asked_to_stop(memory, key):
        # That stop failed and is not needed any more: a later end is a failure again.
        memory = replace(memory, pending_action=None)
    not_before = _pending(memory, context.now) if allowed else None
    if situation is Situation.STOPPED_TOO_OFTEN:
        not_before = _recent(memory.stop_times, context.now)[0] + HOUR
    return Decision(
        state=row.state if allowed or row.otherwise is None else row.otherwise,
        action=action,
        container_id=key[0] if key is not None else None,
        not_before=not_before,
        cause=row.cause or memory.cause,
        failed=failed,
        started=update.started,
        became_ready=update.became_ready,
        memory=memory,
    )


def _ask(
    row: Row, key: RunKey | None, memory: Memory, failed: CountedFailure | None, context: Context
) -> tuple[Memory, CountedFailure | None]:
    """Remember the action, and the failure that is its reason."""
    if row.cause in _STOP_REASONS:
        if not _asked_to_stop(memory, key):
            run = memory.run
            failed = CountedFailure(row.cause, in_start=run is None or not run.ever_ready)
            stops = (*_recent(memory.stop_times, context.now), context.now)
            memory = replace(memory, stop_times=stops)
        memory = fail(memory, row.cause, context)
    elif row.cause is Cause.PAUSED:
        # No run ended, but the next attempt waits as after a failure.
        memory = replace(fail(memory, Cause.PAUSED, context), cause=memory.cause)
    elif row.cause is Cause.CONFIG_CHANGED:
        memory = replace(memory, cause=Cause.CONFIG_CHANGED)
    return replace(memory, pending_action=PendingAction(row.action, key, context.now)), failed


def _asked_to_stop(memory: Memory, key: RunKey | None) -> bool:
    pending = memory.pending_action
    return pending is not None and pending.action is Action.STOP and pending.key == key


def _asked_just_now(memory: Memory, action: Action, key: RunKey | None, context: Context) -> bool:
    pending = memory.pending_action
    return (
        pending is not None
        and pending.action is action
        and pending.key == key
        and context.now - pending.at < REPEAT_SECONDS
    )


def _pending(memory: Memory, now: float) -> float | None:
    if memory.not_before is None or memory.not_before <= now:
        return None
    return memory.not_before
