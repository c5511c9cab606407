"""Adds an observation to the memory: runs that started and ended, failures, and counted time.

Only time in which Docker answered counts: without Docker no deadline passes. `not_before` is a time
of the caller's clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from exporter.container.decide.checks import is_up
from exporter.container.decide.observation import (
    Action,
    CountedFailure,
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

_NO_FAILED_CHECKS: dict[str, Any] = {
    "health_failures": 0,
    "failing_since": None,
    "slow_checks": 0,
    "unreachable": False,
}
_ANSWERS = frozenset({Health.OK, Health.FAILED})
_FAILS = frozenset({Health.FAILED, Health.UNREACHABLE})
LIVE = frozenset({ContainerStatus.RUNNING, ContainerStatus.PAUSED})
ENDED = frozenset({ContainerStatus.EXITED, ContainerStatus.DEAD, ContainerStatus.RESTARTING})


@dataclass(frozen=True, slots=True)
class MemoryUpdate:
    """The memory with one observation added, and what is new in it."""

    memory: Memory
    failed: CountedFailure | None = None
    started: StartedRun | None = None
    became_ready: bool = False


def pass_time(memory: Memory, now: float, *, silent: bool) -> Memory:
    """Add the time since the last observation; it is silent if Docker was silent at either end."""
    elapsed = 0.0 if memory.last_observed is None else max(0.0, now - memory.last_observed)
    lost = elapsed if silent or memory.docker_silent else 0.0
    return replace(
        memory,
        last_observed=now,
        docker_silent=silent,
        silent_seconds=memory.silent_seconds + lost,
    )


def counted_time(memory: Memory) -> float:
    """The caller's clock, less the time in which Docker did not answer."""
    return (memory.last_observed or 0.0) - memory.silent_seconds


def fail(memory: Memory, cause: Cause, context: Context) -> Memory:
    """Count one failure and delay the next start."""
    failures = memory.failures + 1
    delay = delay_after(failures, context.policy.settings.backoff, context.jitter)
    return replace(
        memory,
        failures=failures,
        cause=cause,
        not_before=context.now + delay,
    )


def action_failed(memory: Memory, problem: DockerProblem, context: Context) -> tuple[Memory, bool]:
    """Add an action that Docker refused or did not finish. Returns whether it is a failure.

    The pending action stays: it may have worked although its answer was lost. An unreachable Docker
    is no failure of the container; the next observation shows it.
    """
    if problem is DockerProblem.UNREACHABLE:
        return memory, False
    pending = memory.pending_action
    if memory.run is not None and pending is not None and pending.action is Action.PULL:
        # The old container runs: its replacement is not urgent.
        later = context.now + context.policy.settings.backoff.max_seconds
        return replace(memory, not_before=later), False
    counted = fail(memory, memory.cause or Cause.DOCKER_ERROR, context)
    if pending is not None and pending.action is Action.START:
        # A refused start leaves an exit code in the container, but no run ended.
        counted = replace(counted, counted_exit=pending.key)
    return counted, True


def account(memory: Memory, seen: Observation, context: Context) -> MemoryUpdate:
    """Add an observation in which Docker answered and the target is not held.

    In mode managed a container that is not ours counts as absent.
    """
    container = seen.container if seen.ours or not context.policy.managed else None
    if container is None:
        result = _absent(memory, context)
    elif container.status in LIVE:
        result = _live(memory, seen, container, context)
    elif container.status in ENDED:
        result = _ended(memory, container, context)
    elif container.status is ContainerStatus.CREATED:
        result = MemoryUpdate(replace(memory, run=None))
    else:
        result = MemoryUpdate(memory)  # being removed: counted when it is absent
    created = memory.created_id
    if container is not None and memory.last_seen_id is None and _asked(memory, Action.CREATE):
        created = container.id
    return replace(
        result,
        memory=replace(
            result.memory,
            initialised=True,
            last_seen_id=container.id if container is not None else None,
            created_id=created,
        ),
    )


def _asked(memory: Memory, action: Action, container_id: str | None = None) -> bool:
    pending = memory.pending_action
    if pending is None or pending.action is not action:
        return False
    return container_id is None or (pending.key is not None and pending.key[0] == container_id)


def _absent(memory: Memory, context: Context) -> MemoryUpdate:
    gone = replace(memory, run=None, counted_exit=None)
    run = memory.run
    # Without a run its end was counted before.
    if run is None or _asked(memory, Action.REMOVE, memory.last_seen_id):
        return MemoryUpdate(gone)
    failed = CountedFailure(Cause.REMOVED, in_start=not run.ever_ready)
    return MemoryUpdate(fail(gone, Cause.REMOVED, context), failed)


def _ended(memory: Memory, container: ContainerSnapshot, context: Context) -> MemoryUpdate:
    key = run_key(container)
    over = replace(memory, run=None, counted_exit=key, any_run_seen=True)
    if memory.counted_exit == key or not memory.initialised:
        return MemoryUpdate(over)
    if _asked(memory, Action.STOP, container.id):
        return MemoryUpdate(over)
    run = memory.run
    in_start = run is None or run.key != key or not run.ever_ready
    failed = CountedFailure(Cause.EXITED, in_start)
    return MemoryUpdate(fail(over, Cause.EXITED, context), failed)


def _live(
    memory: Memory, seen: Observation, container: ContainerSnapshot, context: Context
) -> MemoryUpdate:
    time = counted_time(memory)
    key = run_key(container)
    run = memory.run
    failed = started = None
    if run is None or run.key != key:
        by_us = _asked(memory, Action.START, container.id)
        started = StartedRun(by_us=by_us, adopted=not memory.initialised, again=memory.any_run_seen)
        if run is not None and not by_us:
            # Another run in place of the current one: this supervisor did not stop that.
            failed = CountedFailure(Cause.RESTARTED_ELSEWHERE, in_start=not run.ever_ready)
            memory = fail(memory, Cause.RESTARTED_ELSEWHERE, context)
        run = _new_run(key, time, seen, context.policy, by_us=by_us)
        memory = replace(
            memory, any_run_seen=True, pending_action=None, cause=None, not_before=None
        )
    was_ready = run.ever_ready
    run = _observe(run, seen, container, time, context)
    reached = container.id if seen.health in _ANSWERS else memory.reached_id
    memory = replace(memory, run=run, reached_id=reached)
    stable_seconds = context.policy.settings.backoff.reset_after_seconds
    if run.ready_since is not None and time - run.ready_since >= stable_seconds:
        memory = replace(memory, failures=0)
    return MemoryUpdate(memory, failed, started, became_ready=run.ever_ready and not was_ready)


def _new_run(key: RunKey, time: float, seen: Observation, policy: Policy, *, by_us: bool) -> Run:
    """A run that others started, or that was running before the first observation, keeps its age.

    One older than the start deadline is not a late start: it counts as up, and /health decides.
    """
    past = 0.0 if by_us else seen.running_seconds or 0.0
    old = past >= policy.settings.start_deadline_seconds
    return Run(
        key=key,
        started_at=time if old else time - past,
        last_line_at=time,
        last_progress_at=time,
        counts_as_up=old,
    )


def _observe(
    run: Run, seen: Observation, container: ContainerSnapshot, time: float, context: Context
) -> Run:
    if container.status is ContainerStatus.PAUSED:
        since = time if run.paused_since is None else run.paused_since
        return replace(run, paused_since=since, ready_since=None)
    if run.paused_since is not None:
        # The paused time counts for no deadline and no failure.
        run = replace(
            run,
            started_at=run.started_at + (time - run.paused_since),
            last_line_at=time,
            last_progress_at=time,
            paused_since=None,
            **_NO_FAILED_CHECKS,
        )
    if seen.log is not None:
        progressed = seen.log.progress_lines != run.progress_lines
        run = replace(
            run,
            last_line_at=time if seen.log.lines != run.lines else run.last_line_at,
            last_progress_at=time if progressed else run.last_progress_at,
            lines=seen.log.lines,
            progress_lines=seen.log.progress_lines,
        )
    return _health(run, seen, time, context)


def _health(run: Run, seen: Observation, time: float, context: Context) -> Run:
    if seen.health is Health.OK:
        return replace(
            run,
            ever_ready=True,
            ready_since=time if run.ready_since is None else run.ready_since,
            **_NO_FAILED_CHECKS,
        )
    if seen.suspended:
        return replace(run, **_NO_FAILED_CHECKS)
    # Before the server is up, /health cannot answer: no failure.
    if seen.health in _FAILS and is_up(run, seen):
        run = _failed_check(run, seen, context.now)
        healthy = run.health_failures < context.policy.settings.health_failures
        return replace(run, ready_since=run.ready_since if healthy else None)
    return run


def _failed_check(run: Run, seen: Observation, now: float) -> Run:
    """Count one failed check; those before the engine last showed work become `slow_checks`."""
    since = run.failing_since
    run = replace(run, unreachable=seen.health is Health.UNREACHABLE)
    if since is not None and not seen.activity.worked_since(since):
        return replace(run, health_failures=run.health_failures + 1)
    return replace(
        run,
        health_failures=1,
        failing_since=now,
        slow_checks=run.slow_checks + run.health_failures,
    )
