"""What to do about a container: one look and what is remembered make one decision. Pure.

A look is first classified as a situation, then a table says what state that is and what is done.

What holds for every decision, and what the tests walk through:

- Nothing is done while an operator holds the target or while Docker does not answer; neither
  counts as a failure, and time without Docker counts against no deadline.
- One action at most follows a look, and the next look comes before the next action. The same
  action is not asked for twice within `REPEAT_SECONDS` while nothing has changed.
- Every end of a run that was not asked for is a failure, exit code 0 too, and so is a removal.
  It is counted once, however often it is looked at.
- A start or a creation comes no sooner than the delay after the failure before it. The delay
  grows with each failure in a row up to a cap, and begins anew after a stable time.
- A start that goes on is not ended while its log tells of progress, until twice its deadline.
- Nothing that works is stopped: while its own counters advance it is busy, whatever /health and
  the probes say. Nor is what sleeps, is paused or is being scaled.
- A running container is stopped for failed checks at most so often within an hour.
- A container that is up and was never reached at the target's address is left alone: the address
  is wrong.
- A run that is met already going on is taken over as it is; nothing is restarted for our own
  restart. What was stopped is started.
- A paused container is not killed. After a while it is let go on.
- A container that is not ours is never touched. An attached one is never made or removed, and
  stopped or started only if that was allowed.
- A running container is made anew for changed settings only if told so, only while it is ready,
  only when the image for it is at hand, and never twice for one creation. One that does not run
  loses nothing by it: it is made anew in place of being started with old settings.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from exporter.container.decide.accounting import Account, account, counted_time, fail, pass_time
from exporter.container.decide.checks import failed_check, is_up
from exporter.container.decide.observation import Action, Asked, Decision, Failed, Memory, run_key
from exporter.container.decide.policy import HOUR, REPEAT_SECONDS
from exporter.container.decide.records import Cause, ContainerStatus, LifecycleState

if TYPE_CHECKING:
    from exporter.container.decide.observation import Observation, Run, RunKey
    from exporter.container.decide.policy import Context, Policy
    from exporter.container.decide.records import ContainerSnapshot

S = LifecycleState
# How much longer than its deadline a start may take whose log tells of progress.
EXTENSION = 2.0


class Situation(Enum):
    """What a look shows, in the light of what is remembered."""

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
    WELL = auto()
    OUTDATED = auto()
    OUTDATED_NO_IMAGE = auto()
    HEALTH_FAILS = auto()
    PROBES_FAIL = auto()
    BUSY = auto()
    NOT_REACHED = auto()
    STOPPED_TOO_OFTEN = auto()


class Right(Enum):
    """What an action takes for granted."""

    NONE = auto()
    OWN = auto()  # the container is ours
    RAISE = auto()  # ours and nothing has failed yet, or restarts are allowed
    MAKE = auto()  # ours, and as for RAISE
    REPAIR = auto()  # restarts are allowed


class Row(NamedTuple):
    """A state, what is done, and the state where that may not be done."""

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
    Situation.WELL: Row(S.READY),
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

# The state while an action is under way.
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

# A stop for one of these is the failure of the run that it ends.
_AILMENTS = frozenset(
    {Cause.LOADING_HANGS, Cause.START_TIMEOUT, Cause.HEALTH_FAILED, Cause.PROBES_FAILED}
)


def decide(memory: Memory, seen: Observation, context: Context) -> Decision:
    """The one decision that follows a look.

    `Decision.memory` is what the next decision is to be given. It counts the action as asked
    for: tell `accounting.action_failed` if it did not work.
    """
    if seen.held:
        # What an operator does meanwhile is no failure of anything: afterwards we look anew.
        return Decision(S.HELD, memory=Memory(made=memory.made))
    memory = pass_time(memory, context.now, silent=seen.docker is not None)
    if seen.docker is not None:
        return Decision(S.UNKNOWN, memory=memory)
    result = account(memory, seen, context)
    return _act(classify(result.memory, seen, context.now, context.policy), result, seen, context)


def classify(memory: Memory, seen: Observation, now: float, policy: Policy) -> Situation:
    """The situation that a look shows, `memory` being what `account` made of it."""
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
    """What we have just made is never taken for outdated: that would never end."""
    return seen.drifted is True and container.id != memory.made


def _running(
    memory: Memory,
    seen: Observation,
    container: ContainerSnapshot,
    now: float,
    policy: Policy,
) -> Situation:
    run = memory.run
    if run is None:  # cannot be after accounting; the next look will have it
        return Situation.LOADING
    reached = memory.reached == container.id
    failing = failed_check(run, seen, now, policy, reached=reached)
    if failing is not None:
        return _BY_CHECK[failing]
    if not run.ever_ready:
        if is_up(run, seen):
            return Situation.LOADING  # until /health has said how it is, often enough
        return _loading(run, seen, counted_time(memory), policy)
    if policy.settings.on_drift == "recreate" and _is_outdated(memory, seen, container):
        if seen.image_present is not False:
            return Situation.OUTDATED
        waiting = memory.not_before is not None and now < memory.not_before
        return Situation.WELL if waiting else Situation.OUTDATED_NO_IMAGE
    return Situation.WELL


def _within_the_limit(
    situation: Situation,
    memory: Memory,
    container: ContainerSnapshot,
    now: float,
    policy: Policy,
) -> Situation:
    """The situation, or that the limit keeps from what it asks for."""
    row = TABLE[situation]
    limited = row.cause in _AILMENTS and _may(row.right, memory, policy)
    if not limited or _asked_to_stop(memory, run_key(container)):
        return situation
    spent = len(_recent(memory.stops, now)) >= policy.settings.restarts_per_hour
    return Situation.STOPPED_TOO_OFTEN if spent else situation


def _recent(stops: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in stops if now - at < HOUR)


def _loading(run: Run, seen: Observation, time: float, policy: Policy) -> Situation:
    quiet = seen.log is not None and time - run.line_at >= policy.settings.quiet_deadline_seconds
    if quiet:
        return Situation.HANGING
    took = time - run.began
    if took < policy.settings.start_deadline_seconds:
        return Situation.LOADING
    progresses = (
        seen.log is not None and time - run.mark_at < policy.settings.quiet_deadline_seconds
    )
    if progresses and took < EXTENSION * policy.settings.start_deadline_seconds:
        return Situation.LOADING
    return Situation.TOO_LATE


def _may(right: Right, memory: Memory, policy: Policy) -> bool:
    return {
        Right.NONE: True,
        Right.OWN: policy.managed,
        Right.RAISE: policy.may_restart or (policy.managed and memory.failures == 0),
        Right.MAKE: policy.managed and (policy.may_restart or memory.failures == 0),
        Right.REPAIR: policy.may_restart,
    }[right]


def _act(situation: Situation, result: Account, seen: Observation, context: Context) -> Decision:
    row, memory, failed = TABLE[situation], result.memory, result.failed
    key = run_key(seen.container) if seen.container is not None else None
    allowed = _may(row.right, memory, context.policy)
    action = row.action if allowed else Action.NOTHING
    if action is not Action.NOTHING and _asked_just_now(memory, action, key, context):
        action = Action.NOTHING
    if action is not Action.NOTHING:
        memory, failed = _ask(row, key, memory, failed, context)
    elif situation is Situation.WELL and _asked_to_stop(memory, key):
        # That stop did not work and is not needed any more: a later end was not asked for.
        memory = replace(memory, asked=None)
    not_before = _pending(memory, context.now) if allowed else None
    if situation is Situation.STOPPED_TOO_OFTEN:
        not_before = _recent(memory.stops, context.now)[0] + HOUR
    return Decision(
        state=row.state if allowed or row.otherwise is None else row.otherwise,
        action=action,
        container_id=key[0] if key is not None else None,
        not_before=not_before,
        cause=row.cause or memory.cause,
        failed=failed,
        started=result.started,
        became_ready=result.became_ready,
        memory=memory,
    )


def _ask(
    row: Row, key: RunKey | None, memory: Memory, failed: Failed | None, context: Context
) -> tuple[Memory, Failed | None]:
    """Remember what is asked for, and what that says of the run that it is asked for."""
    if row.cause in _AILMENTS:
        if not _asked_to_stop(memory, key):
            run = memory.run
            failed = Failed(row.cause, in_start=run is None or not run.ever_ready)
            stops = (*_recent(memory.stops, context.now), context.now)
            memory = replace(memory, stops=stops)
        memory = fail(memory, row.cause, context)
    elif row.cause is Cause.PAUSED:
        # No run ends by it, but the next attempt has to wait as after a failure.
        memory = replace(fail(memory, Cause.PAUSED, context), cause=memory.cause)
    elif row.cause is Cause.CONFIG_CHANGED:
        memory = replace(memory, cause=Cause.CONFIG_CHANGED)
    return replace(memory, asked=Asked(row.action, key, context.now)), failed


def _asked_to_stop(memory: Memory, key: RunKey | None) -> bool:
    asked = memory.asked
    return asked is not None and asked.action is Action.STOP and asked.key == key


def _asked_just_now(memory: Memory, action: Action, key: RunKey | None, context: Context) -> bool:
    asked = memory.asked
    return (
        asked is not None
        and asked.action is action
        and asked.key == key
        and context.now - asked.at < REPEAT_SECONDS
    )


def _pending(memory: Memory, now: float) -> float | None:
    if memory.not_before is None or memory.not_before <= now:
        return None
    return memory.not_before
