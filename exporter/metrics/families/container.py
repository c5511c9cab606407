"""The families of a container that the exporter watches or supervises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.container.decide.records import Cause, DockerProblem, LifecycleState
from exporter.metrics.readers import Reader, by, counter, gauge, one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from exporter.container.decide.records import ContainerSnapshot, ContainerView
    from exporter.metrics.readers import Family, Reading, Value
    from exporter.metrics.state.target import TargetState


def _view(value: Callable[[ContainerView], Value]) -> Reader[TargetState]:
    """A value of a target that has a container."""
    return one(lambda target: None if target.container is None else value(target.container))


def _snapshot(view: ContainerView) -> ContainerSnapshot | None:
    """What Docker says of the container, while Docker answers."""
    return None if view.state is LifecycleState.UNKNOWN else view.snapshot


def _states(target: TargetState) -> Mapping[str, Value]:
    view = target.container
    return {} if view is None else {state: state is view.state for state in LifecycleState}


def _by_cause(counts: Callable[[ContainerView], Mapping[str, int]]) -> Reader[TargetState]:
    """Counts by cause; a cause that never happened is 0."""

    def read(target: TargetState) -> Mapping[str, Value]:
        if target.container is None:
            return {}
        return {**dict.fromkeys(Cause, 0), **counts(target.container)}

    return by("reason", read)


def _diagnosis(target: TargetState) -> Mapping[str, Value]:
    found = target.container.diagnosis if target.container else None
    return {found.cause: 1} if found else {}


# Every other problem is an answer of Docker's.
_NO_ANSWER = {
    DockerProblem.UNREACHABLE,
    DockerProblem.PERMISSION_DENIED,
    DockerProblem.TIMEOUT,
    DockerProblem.NO_THREADS,
}


def _exit_code(view: ContainerView) -> Value:
    snapshot = _snapshot(view)
    return None if snapshot is None else snapshot.exit_code


def _info(target: TargetState) -> Iterator[Reading]:
    view = target.container
    snapshot = None if view is None else _snapshot(view)
    if view is not None and snapshot is not None:
        yield (view.mode, snapshot.name, snapshot.image, snapshot.image_id), 1


CONTAINER: Final[tuple[Family[TargetState], ...]] = (
    gauge(
        "vllm_container_state",
        by("state", _states),
        "1 for the container's current state, 0 for every other state.",
    ),
    gauge(
        "vllm_container_state_timestamp_seconds",
        _view(lambda view: view.since_time),
        "Unix time at which the container entered its state.",
    ),
    gauge(
        "vllm_container_docker_up",
        _view(lambda view: view.docker_problem not in _NO_ANSWER),
        "1 when Docker answers. While it is 0, the container's state is unknown.",
    ),
    gauge(
        "vllm_container_diagnosis",
        by("reason", _diagnosis),
        "1 for the cause of the container's problem. Absent when there is no problem.",
    ),
    counter(
        "vllm_container_restarts_total",
        _by_cause(lambda view: view.restarts),
        "Restarts of the container, by the cause that made them necessary.",
    ),
    counter(
        "vllm_container_start_failures_total",
        _by_cause(lambda view: view.start_failures),
        "Starts of the container that never became ready, by cause.",
    ),
    counter(
        "vllm_container_oom_kills_total",
        _view(lambda view: view.oom_kills),
        "Times that the kernel killed the container at its memory limit.",
    ),
    counter(
        "vllm_container_model_loads_total",
        _view(lambda view: view.model_loads),
        "Times that the engine loaded a model's weights, by the container's log.",
    ),
    counter(
        "vllm_container_health_failures_total",
        _view(lambda view: view.health_failures),
        "Health checks of the container that failed.",
    ),
    gauge(
        "vllm_container_startup_seconds",
        _view(lambda view: view.startup_seconds),
        "Duration of the last start that became ready.",
    ),
    gauge(
        "vllm_container_next_attempt_timestamp_seconds",
        _view(lambda view: view.next_attempt_time),
        "Unix time of the next start. Absent when none is planned.",
    ),
    gauge(
        "vllm_container_exit_code",
        _view(_exit_code),
        "Exit code of the container. Absent while it runs.",
    ),
    gauge(
        "vllm_container_config_drift",
        _view(lambda view: view.config_drift),
        "1 when the container was created with other settings than those in force.",
    ),
    gauge(
        "vllm_container_pull_done_bytes",
        _view(lambda view: None if view.pull is None else view.pull.bytes_done),
        "Bytes of the image pulled so far. Absent when no image is being pulled.",
    ),
    gauge(
        "vllm_container_pull_expected_bytes",
        _view(lambda view: None if view.pull is None else view.pull.bytes_total),
        "Bytes of the image's layers, as far as Docker has reported them. Absent when no image is "
        "being pulled.",
    ),
    gauge(
        "vllm_container_info",
        Reader(("mode", "name", "image", "image_id"), _info),
        "1, with the container's mode, name and image as labels.",
    ),
)
