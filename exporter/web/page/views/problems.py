"""The problems of a target on the status page: what is wrong, the evidence, what to do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.records import Cause, DockerProblem
from exporter.metrics.state.condition import Condition
from exporter.metrics.state.target import live_engine
from exporter.model.session import Notice
from exporter.web.page.views.records import Problem
from exporter.wording import numbers
from exporter.wording.findings.engine import KV_EVENTS_ON
from exporter.wording.notices import ADVICE, BREAK_ADVICE, FAILURE_ADVICE, break_in_words

if TYPE_CHECKING:
    from exporter.container.decide.records import ContainerView
    from exporter.metrics.state.target import TargetState
    from exporter.model.failure import Failure
    from exporter.model.session import PrefixBreak, SessionResult

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
_RUNBOOKS = {
    Cause.OOM_KILLED: "out-of-memory",
    Cause.ADDRESS: "container-address-wrong",
    Cause.RESTART_LIMIT: "restart-limit",
    Cause.WRONG_MODEL: "wrong-model",
    Cause.NAME_TAKEN: "container-not-ours",
    Cause.OTHER_EXPORTER: "container-not-ours",
    Cause.BUSY: "probe-failing",
}


def problems_of(state: TargetState, found: Condition) -> list[Problem]:
    """All problems of a target; failed sessions are left out while its engine sleeps."""
    problems = [] if state.container is None else container_problems(state.container)
    if found is not Condition.ASLEEP:
        problems += _failures(state)
    if state.engine is not None and state.engine.failure is not None:
        failure = state.engine.failure
        title = f"The engine's own metrics cannot be read: {numbers.spaced(failure.reason)}"
        problems.append(Problem(title, failure.detail, "", "vllm-down"))
    if live_engine(state) and state.kv_events is not None and not state.kv_events.connected:
        title = "The engine's KV events do not arrive"
        detail = f"Nothing answers at {state.kv_events.url}."
        problems.append(Problem(title, detail, KV_EVENTS_ON, ""))
    if state.wedged:
        title = "The prefix cache has stopped hitting"
        problems.append(Problem(title, "", ADVICE[Notice.CACHE_WEDGED], "cache-wedged"))
    breaks = [each.prefix for each in state.scenarios.values() if each.prefix is not None]
    problems += [_break(one.first_break) for one in breaks if not one.stable and one.first_break]
    return problems


def _failures(state: TargetState) -> list[Problem]:
    """Failures of the last session or heartbeat, and of the last one of each other scenario."""
    last = state.latest
    others = [each for each in state.scenarios.values() if each is not last]
    return [
        _failure(each, each.failure, f" of {each.scenario}" if each is not last else "")
        for each in (*([] if last is None else [last]), *others)
        if each.failure is not None
    ]


def _failure(result: SessionResult, failure: Failure, of_scenario: str) -> Problem:
    turn = result.failed_turn
    place = "before its first turn" if turn is None else f"in turn {turn}"
    what = "heartbeat" if result.heartbeat else f"session{of_scenario}"
    return Problem(
        f"The last {what} failed {place}: {numbers.spaced(failure.reason)}",
        failure.detail,
        FAILURE_ADVICE[failure.reason],
        "probe-failing",
    )


def _break(found: PrefixBreak) -> Problem:
    return Problem(
        f"The prompt is not stable from turn to turn: {numbers.spaced(found.reason)}",
        break_in_words(found),
        BREAK_ADVICE[found.reason],
        "prefix-unstable",
    )


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


def _runbook(view: ContainerView) -> str:
    if view.diagnosis is not None and view.diagnosis.cause in _RUNBOOKS:
        return _RUNBOOKS[view.diagnosis.cause]
    return "crash-loop" if any(view.restarts.values()) else "start-failing"
