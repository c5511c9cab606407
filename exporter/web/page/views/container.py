"""The problems of a container on the status page. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.records import Cause, DockerProblem
from exporter.web.page.views.records import Problem
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.container.decide.records import ContainerView

_DOCKER_ADVICE = {
    DockerProblem.UNREACHABLE: "Check that Docker runs, and that the path of its socket is right.",
    DockerProblem.PERMISSION_DENIED: (
        "The exporter's user has no permission for Docker's socket, or a socket proxy refuses the "
        "call."
    ),
    DockerProblem.TIMEOUT: "Docker is slow or hangs. Read Docker's own log.",
    DockerProblem.NO_THREADS: (
        "The exporter cannot start a thread. Raise its limit of tasks (TasksMax, pids, ulimit -u)."
    ),
}


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


def by_cause(counts: Mapping[str, int]) -> str | None:
    """Counts by cause, most frequent first, without zeros; None where nothing remains."""
    met = sorted(
        ((n, cause) for cause, n in counts.items() if n), key=lambda one: (-one[0], one[1])
    )
    return ", ".join(f"{n} {numbers.spaced(cause)}" for n, cause in met) or None
