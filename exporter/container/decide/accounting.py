"""Folding a look into what is remembered: runs that began and ended, failures, time that counts.

Time that counts is time in which Docker answered: a start deadline or a stable time does not run
while nobody could look. `not_before` alone is on the caller's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exporter.container.decide.checks import is_up
from exporter.container.decide.observation import (
    Action,
    Failed,
    Health,
    Memory,
    Run,
    StartedRun,
    run_key,
)
from exporter.container.decide.policy import delay_after
from exporter.container.decide.records import Cause, ContainerStatus, DockerProblem

if TYPE_CHECKING:
    from exporter.container.decide.observation import Observation, RunKey
    from exporter.container.decide.policy import Context, Policy
    from exporter.container.decide.records import ContainerSnapshot

_NO_FAILED_LOOKS: dict[str, Any] = {
    "health_failures": 0,
    "failing_since": None,
    "slow_looks": 0,
    "unreachable": False,
}
_ANSWERS = frozenset({Health.OK, Health.FAILED})
_FAILS = frozenset({Health.FAILED, Health.UNREACHABLE})
LIVE = frozenset({ContainerStatus.RUNNING, ContainerStatus.PAUSED})
ENDED = frozenset({ContainerStatus.EXITED, ContainerStatus.DEAD, ContainerStatus.RESTARTING})


@dataclass(frozen=True, slots=True)
class Account:
    """What a look changed, besides the memory."""

    memory: Memory
    failed: Failed | None = None
    started: StartedRun | None = None
    became_ready: bool = False


def pass_time(memory: Memory, now: float, *, silent: bool) -> Memory:
    """Count the time since the last look, as silent if Docker was silent at either end of it."""
    since = 0.0 if memory.last_look is None else max(0.0, now - memory.last_look)
    lost = since if silent or memory.silent else 0.0
    return replace(
        memory,
        last_look=now,
        silent=silent,
        silent_seconds=memory.silent_seconds + lost,
    )


def counted_time(memory: Memory) -> float:
    """The clock that runs only while Docker answers; it has the caller's clock's origin."""
    return (memory.last_look or 0.0) - memory.silent_seconds


def fail(memory: Memory, cause: Cause, context: Context) -> Memory:
    """Count one failure and put off the next start."""
    failures = memory.failures + 1
    return replace(
        memory,
        failures=failures,
        cause=cause,
        not_before=context.now
        + delay_after(failures, context.policy.settings.backoff, context.jitter),
    )


def action_failed(memory: Memory, problem: DockerProblem, context: Context) -> tuple[Memory, bool]:
    """An action that Docker refused or did not finish; whether it counts as a failure.

    What was asked stays remembered: it may have worked although its answer was lost. Docker
    that cannot be reached is no failure of the container; the next look says so.
    """
    if problem is DockerProblem.UNREACHABLE:
        return memory, False
    asked = memory.asked
    if memory.run is not None and asked is not None and asked.action is Action.PULL:
        # The container runs and only its successor has to wait: there is no hurry.
        later = context.now + context.policy.settings.backoff.max_seconds
        return replace(memory, not_before=later), False
    counted = fail(memory, memory.cause or Cause.DOCKER_ERROR, context)
    if asked is not None and asked.action is Action.START:
        # A refused start leaves its traces in the container; they are no end of a run.
        counted = replace(counted, ended=asked.key)
    return counted, True


def account(memory: Memory, seen: Observation, context: Context) -> Account:
    """Fold in one look at which Docker answered and nobody holds the target.

    A container that is not ours counts as none, where only ours are looked after.
    """
    container = seen.container if seen.ours or not context.policy.managed else None
    if container is None:
        result = _absent(memory, context)
    elif container.status in LIVE:
        result = _live(memory, seen, container, context)
    elif container.status in ENDED:
        result = _ended(memory, container, context)
    elif container.status is ContainerStatus.CREATED:
        result = Account(replace(memory, run=None))
    else:
        result = Account(memory)  # being removed: when it is gone, that is accounted for
    made = memory.made
    if container is not None and memory.had is None and _asked(memory, Action.CREATE):
        made = container.id
    return replace(
        result,
        memory=replace(
            result.memory,
            known=True,
            had=container.id if container is not None else None,
            made=made,
        ),
    )


def _asked(memory: Memory, action: Action, container_id: str | None = None) -> bool:
    asked = memory.asked
    if asked is None or asked.action is not action:
        return False
    return container_id is None or (asked.key is not None and asked.key[0] == container_id)


def _absent(memory: Memory, context: Context) -> Account:
    gone = replace(memory, run=None, ended=None)
    run = memory.run
    if run is None or _asked(memory, Action.REMOVE, memory.had):
        # Where it had ended before it went, that end was accounted for.
        return Account(gone)
    failed = Failed(Cause.REMOVED, in_start=not run.ever_ready)
    return Account(fail(gone, Cause.REMOVED, context), failed)


def _ended(memory: Memory, container: ContainerSnapshot, context: Context) -> Account:
    key = run_key(container)
    over = replace(memory, run=None, ended=key, ran=True)
    if memory.ended == key or not memory.known:
        return Account(over)
    if _asked(memory, Action.STOP, container.id):
        return Account(over)
    run = memory.run
    in_start = run is None or run.key != key or not run.ever_ready
    failed = Failed(Cause.EXITED, in_start)
    return Account(fail(over, Cause.EXITED, context), failed)


def _live(
    memory: Memory, seen: Observation, container: ContainerSnapshot, context: Context
) -> Account:
    time = counted_time(memory)
    key = run_key(container)
    run = memory.run
    failed = started = None
    if run is None or run.key != key:
        by_us = _asked(memory, Action.START, container.id)
        started = StartedRun(by_us=by_us, adopted=not memory.known, again=memory.ran)
        if run is not None and not by_us:
            # One run went on and now another does: an end that nobody here asked for.
            failed = Failed(Cause.RESTARTED_ELSEWHERE, in_start=not run.ever_ready)
            memory = fail(memory, Cause.RESTARTED_ELSEWHERE, context)
        run = _new_run(key, time, seen, context.policy, by_us=by_us)
        memory = replace(memory, ran=True, asked=None, cause=None, not_before=None)
    was_ready = run.ever_ready
    run = _watch(run, seen, container, time, context)
    reached = container.id if seen.health in _ANSWERS else memory.reached
    memory = replace(memory, run=run, reached=reached)
    if (
        run.ready_since is not None
        and time - run.ready_since >= context.policy.settings.backoff.reset_after_seconds
    ):
        memory = replace(memory, failures=0)
    return Account(memory, failed, started, became_ready=run.ever_ready and not was_ready)


def _new_run(key: RunKey, time: float, seen: Observation, policy: Policy, *, by_us: bool) -> Run:
    """Of a run that others started, or that went on before we looked, the past counts too.

    One that is older than a start may take is not taken for a start that is too late: it is up,
    and /health says whether it is well.
    """
    past = 0.0 if by_us else seen.running_seconds or 0.0
    old = past >= policy.settings.start_deadline_seconds
    return Run(
        key=key,
        began=time if old else time - past,
        line_at=time,
        mark_at=time,
        past_start=old,
    )


def _watch(
    run: Run, seen: Observation, container: ContainerSnapshot, time: float, context: Context
) -> Run:
    if container.status is ContainerStatus.PAUSED:
        since = time if run.paused_since is None else run.paused_since
        return replace(run, paused_since=since, ready_since=None)
    if run.paused_since is not None:
        # What a paused container did not do in that time is not held against it.
        run = replace(
            run,
            began=run.began + (time - run.paused_since),
            line_at=time,
            mark_at=time,
            paused_since=None,
            **_NO_FAILED_LOOKS,
        )
    if seen.log is not None:
        run = replace(
            run,
            line_at=time if seen.log.lines != run.lines else run.line_at,
            mark_at=time if seen.log.marks != run.marks else run.mark_at,
            lines=seen.log.lines,
            marks=seen.log.marks,
        )
    return _health(run, seen, time, context)


def _health(run: Run, seen: Observation, time: float, context: Context) -> Run:
    if seen.health is Health.OK:
        return replace(
            run,
            ever_ready=True,
            ready_since=time if run.ready_since is None else run.ready_since,
            **_NO_FAILED_LOOKS,
        )
    if seen.at_rest:
        return replace(run, **_NO_FAILED_LOOKS)
    # While the server is not up yet, /health cannot answer and that is no failure.
    if seen.health in _FAILS and is_up(run, seen):
        run = _failed_look(run, seen, context.now)
        well = run.health_failures < context.policy.settings.health_failures
        return replace(run, ready_since=run.ready_since if well else None)
    return run


def _failed_look(run: Run, seen: Observation, now: float) -> Run:
    """One more; those before the engine was last seen at work only tell that it is slow."""
    since = run.failing_since
    run = replace(run, unreachable=seen.health is Health.UNREACHABLE)
    if since is not None and not seen.activity.worked_since(since):
        return replace(run, health_failures=run.health_failures + 1)
    return replace(
        run,
        health_failures=1,
        failing_since=now,
        slow_looks=run.slow_looks + run.health_failures,
    )
