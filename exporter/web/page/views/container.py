"""What the status page says of a container. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.records import Cause, ContainerStatus, DockerProblem, LifecycleState
from exporter.web.page.views.records import Fact, Problem
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.container.decide.records import ContainerView, PullProgress
    from exporter.metrics.state.target import LastExit

_DOCKER_ADVICE = {
    DockerProblem.UNREACHABLE: "Check that Docker runs and where its socket is.",
    DockerProblem.PERMISSION_DENIED: (
        "The exporter's user may not use Docker's socket, or a socket proxy refuses the call."
    ),
    DockerProblem.TIMEOUT: "Docker is slow or hangs. Its own log says more.",
    DockerProblem.NO_THREADS: (
        "The exporter cannot start a thread: raise its limit of tasks (TasksMax, pids, ulimit -u)."
    ),
}


def container_facts(
    view: ContainerView, last_exit: LastExit | None, now: float
) -> tuple[Fact, ...]:
    since = f"{numbers.moment(view.since_time)} ({numbers.ago(view.since_time, now)})"
    facts = [
        ("State", f"{numbers.spaced(view.state)}, since {since}"),
        *_inspected_facts(view, now),
        ("Last exit", last_exit and _exit(last_exit, now)),
        ("Made from", _drift(view.config_drift)),
        ("Image pull", view.pull and _pull(view.pull)),
        ("Last start took", _duration(view.startup_seconds)),
        ("Next attempt", _when(view.next_attempt_time, now)),
        ("Restarts", _counts(view.restarts)),
        ("Failed starts", _counts(view.start_failures)),
        ("Killed for memory", str(view.oom_kills) if view.oom_kills else None),
        ("Failed health checks", str(view.health_failures) if view.health_failures else None),
        ("Weights loaded", str(view.model_loads) if view.model_loads else None),
    ]
    return tuple(Fact(name, value) for name, value in facts if value)


def container_problems(view: ContainerView) -> list[Problem]:
    found = []
    if view.docker_problem is not None:
        advice = _DOCKER_ADVICE.get(view.docker_problem, "")
        title = f"Docker: {numbers.spaced(view.docker_problem)}"
        found.append(Problem(title, "", advice, "docker-unreachable"))
    if view.diagnosis is not None:
        title = f"The container: {view.diagnosis.summary}"
        found.append(Problem(title, view.diagnosis.evidence, view.diagnosis.advice, _runbook(view)))
    return found


_RUNBOOKS = {
    Cause.OOM_KILLED: "out-of-memory",
    Cause.ADDRESS: "container-address-wrong",
    Cause.RESTART_LIMIT: "restart-limit",
    Cause.WRONG_MODEL: "wrong-model",
    Cause.NAME_TAKEN: "container-not-ours",
    Cause.OTHER_EXPORTER: "container-not-ours",
    Cause.BUSY: "probe-failing",
}


def _runbook(view: ContainerView) -> str:
    if view.diagnosis is not None and view.diagnosis.cause in _RUNBOOKS:
        return _RUNBOOKS[view.diagnosis.cause]
    return "crash-loop" if any(view.restarts.values()) else "start-failing"


def _inspected_facts(view: ContainerView, now: float) -> list[tuple[str, str | None]]:
    snapshot = view.snapshot
    if snapshot is None or view.state is LifecycleState.UNKNOWN:
        return []
    running = snapshot.status is ContainerStatus.RUNNING and snapshot.started_time is not None
    return [
        ("Name", snapshot.name),
        ("Image", snapshot.image),
        ("Started", numbers.ago(snapshot.started_time or now, now) if running else None),
    ]


def _exit(last: LastExit, now: float) -> str:
    why = "" if last.why is None else f": {last.why.rstrip('.')}"
    return f"code {last.code}, {numbers.ago(last.time, now)}{why}"


def _drift(drift: bool | None) -> str | None:
    if drift is None:
        return None
    return "other settings than those in force" if drift else "the settings in force"


def _duration(value: float | None) -> str | None:
    return None if value is None else numbers.seconds(value)


def _when(unix_time: float | None, now: float) -> str | None:
    return None if unix_time is None else numbers.ago(max(unix_time, now), now)


def _pull(pull: PullProgress) -> str:
    return (
        f"{numbers.size(pull.bytes_done)} of {numbers.size(pull.bytes_total)} so far, "
        f"{pull.layers_done} of {pull.layers} layers"
    )


def _counts(counts: Mapping[str, int]) -> str | None:
    """Only causes that were met, most frequent first."""
    met = sorted(
        ((n, cause) for cause, n in counts.items() if n), key=lambda one: (-one[0], one[1])
    )
    return ", ".join(f"{n} {numbers.spaced(cause)}" for n, cause in met) or None
