"""The metric families of a supervised container, in the manner of families.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import (
    Family,
    by_cause,
    container,
    container_info,
    container_states,
    diagnosis,
    docker_answers,
    inspected,
)

if TYPE_CHECKING:
    from exporter.metrics.state.target import TargetState

CONTAINER: Final[tuple[Family[TargetState], ...]] = (
    Family(
        "vllm_container_state",
        "gauge",
        container_states(),
        "1 for the state of the container's life, 0 for every other one.",
    ),
    Family(
        "vllm_container_state_timestamp_seconds",
        "gauge",
        container(lambda view: view.since_time),
        "Unix time at which the container came into its state.",
    ),
    Family(
        "vllm_container_docker_up",
        "gauge",
        container(docker_answers),
        "1 when Docker answers. While it is 0 the state is unknown.",
    ),
    Family(
        "vllm_container_diagnosis",
        "gauge",
        diagnosis(),
        "1 for the diagnosed cause while the container is not healthy. Absent without a diagnosis.",
    ),
    Family(
        "vllm_container_restarts_total",
        "counter",
        by_cause(lambda view: view.restarts),
        "Restarts of the container, by what made them necessary.",
    ),
    Family(
        "vllm_container_start_failures_total",
        "counter",
        by_cause(lambda view: view.start_failures),
        "Starts of the container that never became ready, by cause.",
    ),
    Family(
        "vllm_container_oom_kills_total",
        "counter",
        container(lambda view: view.oom_kills),
        "Times that the kernel killed the container at its memory limit.",
    ),
    Family(
        "vllm_container_model_loads_total",
        "counter",
        container(lambda view: view.model_loads),
        "Times that the container's log said that weights were loaded.",
    ),
    Family(
        "vllm_container_health_failures_total",
        "counter",
        container(lambda view: view.health_failures),
        "Health checks of the container that failed.",
    ),
    Family(
        "vllm_container_startup_seconds",
        "gauge",
        container(lambda view: view.startup_seconds),
        "How long the last start that became ready took.",
    ),
    Family(
        "vllm_container_next_attempt_timestamp_seconds",
        "gauge",
        container(lambda view: view.next_attempt_time),
        "Unix time of the next attempt to start. Absent when none is planned.",
    ),
    Family(
        "vllm_container_exit_code",
        "gauge",
        inspected(lambda snapshot: snapshot.exit_code),
        "Exit code of the container. Absent while it runs.",
    ),
    Family(
        "vllm_container_config_drift",
        "gauge",
        container(lambda view: None if view.config_drift is None else float(view.config_drift)),
        "1 when the container was made from other settings than those in force.",
    ),
    Family(
        "vllm_container_pull_done_bytes",
        "gauge",
        container(lambda view: None if view.pull is None else view.pull.bytes_done),
        "Bytes of the image pulled so far. Absent unless the image is being pulled.",
    ),
    Family(
        "vllm_container_pull_expected_bytes",
        "gauge",
        container(lambda view: None if view.pull is None else view.pull.bytes_total),
        "Bytes of the image's layers that Docker has told of so far.",
    ),
    Family(
        "vllm_container_info",
        "gauge",
        container_info(),
        "1, with the container's mode, name and image as labels.",
    ),
)
