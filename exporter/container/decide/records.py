"""The records of a container: what Docker shows, what to create, and the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from exporter.errors import ExporterError

if TYPE_CHECKING:
    from collections.abc import Mapping

MANAGED_LABEL = "io.vllm-cache-exporter.target"
INSTANCE_LABEL = "io.vllm-cache-exporter.instance"
CONFIG_HASH_LABEL = "io.vllm-cache-exporter.config-hash"


class ContainerStatus(StrEnum):
    """`State.Status` of Docker's inspect."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


class LifecycleState(StrEnum):
    """The state of a supervised container. Label `state` of `vllm_container_state`."""

    UNKNOWN = "unknown"  # Docker does not answer
    ABSENT = "absent"
    PULLING = "pulling"
    CREATING = "creating"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"  # its checks fail, but it works: slow, not dead
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    HELD = "held"  # the hold file exists


class DockerProblem(StrEnum):
    """Why a call to Docker failed. Label `reason` where it is counted."""

    UNREACHABLE = "unreachable"  # no socket, refused, daemon gone
    PERMISSION_DENIED = "permission_denied"  # the socket's file mode, or a proxy's 403
    TIMEOUT = "timeout"
    NOT_FOUND = "not_found"  # no such container
    IMAGE_NOT_FOUND = "image_not_found"
    REGISTRY_UNREACHABLE = "registry_unreachable"
    GPU_DRIVER_MISSING = "gpu_driver_missing"
    PORT_TAKEN = "port_taken"
    NO_SPACE = "no_space"
    CONFLICT = "conflict"  # a container of that name exists
    BAD_REQUEST = "bad_request"
    API_ERROR = "api_error"
    NO_THREADS = "no_threads"  # the exporter cannot start another thread


class DockerError(ExporterError):
    """A failed call to Docker; the only exception that leaves the room docker/."""

    def __init__(self, problem: DockerProblem, detail: str) -> None:
        super().__init__(f"{problem}: {detail}")
        self.problem = problem
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ContainerSnapshot:
    """One inspect. Times are Unix seconds; None where Docker has not set them yet."""

    id: str
    name: str
    image: str  # the reference it was created from, as in Config.Image
    image_id: str
    status: ContainerStatus
    exit_code: int | None  # None while it runs or was never started
    oom_killed: bool
    error: str  # Docker's message when a start was refused, else ""
    started_time: float | None
    finished_time: float | None
    labels: Mapping[str, str] = field(default_factory=dict)
    published_ports: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)  # name to address, "" without one
    health: str | None = None  # of the image's health check: starting, healthy, unhealthy


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount (`source` starts with "/") or a named volume."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """`count` -1 means all; `device_ids` names them instead."""

    count: int | None = None
    device_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """A container to create. It holds no secret.

    The door gets the values of secrets by name. `secret_environment` names those that become
    environment variables, which `docker inspect` shows; `secret_files` maps the others to the
    absolute path of a file, which is written into the container before it starts.
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    secret_environment: tuple[str, ...]
    labels: Mapping[str, str]
    mounts: tuple[Mount, ...]
    gpus: GpuRequest | None
    ipc_host: bool
    shm_bytes: int | None
    network: str | None
    host_ip: str
    host_port: int | None  # None: not published
    container_port: int = 8000
    memory_bytes: int | None = None
    secret_files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Sums over all layers that Docker has reported so far."""

    layers_done: int
    layers: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """One line of Docker's event stream about a container."""

    container_id: str
    name: str
    action: str  # start, die, oom, kill, destroy, pause, unpause, …


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a container's output, without its line end. `time` is Unix, by Docker's clock."""

    time: float
    text: str


class Cause(StrEnum):
    """Why a container is not healthy. Label `reason` of restarts and start failures."""

    GPU_TOOLKIT_MISSING = "gpu_toolkit_missing"
    GPU_UNAVAILABLE = "gpu_unavailable"  # the container finds no GPU, or Docker no driver
    GPU_DRIVER = "gpu_driver"  # the host's driver is not loaded, or its library has another version
    CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
    KV_CACHE_TOO_SMALL = "kv_cache_too_small"
    MODEL_ACCESS_DENIED = "model_access_denied"
    MODEL_NOT_FOUND = "model_not_found"
    HUB_UNREACHABLE = "hub_unreachable"  # the model is not in the cache
    UNRECOGNISED_ARGUMENT = "unrecognised_argument"
    INVALID_ARGUMENT = "invalid_argument"  # vLLM knows the flag but refuses its value
    PORT_TAKEN = "port_taken"
    NO_SPACE = "no_space"
    SHARED_MEMORY_TOO_SMALL = "shared_memory_too_small"
    IMAGE_NOT_FOUND = "image_not_found"
    REGISTRY_UNREACHABLE = "registry_unreachable"
    NAME_TAKEN = "name_taken"  # by a container that is not ours
    OTHER_EXPORTER = "other_exporter"  # by a container of another exporter
    DOCKER_DENIED = "docker_denied"
    DOCKER_ERROR = "docker_error"
    ENGINE_CORE_DIED = "engine_core_died"
    OOM_KILLED = "oom_killed"  # the kernel, at the container's memory limit
    KILLED = "killed"  # SIGKILL that the supervisor did not send, exit code 137
    TERMINATED = "terminated"  # SIGTERM that the supervisor did not send
    START_TIMEOUT = "start_timeout"
    LOADING_HANGS = "loading_hangs"
    HEALTH_FAILED = "health_failed"
    PROBES_FAILED = "probes_failed"
    BUSY = "busy"  # its checks fail while its own counters advance
    ADDRESS = "address"  # it is up, but does not answer at the target's url
    RESTART_LIMIT = "restart_limit"  # unhealthy, and restarted too often within an hour
    REMOVED = "removed"
    PAUSED = "paused"
    WRONG_MODEL = "wrong_model"  # it serves another model than the settings say
    CONFIG_CHANGED = "config_changed"  # created again for changed settings
    RESTARTED_ELSEWHERE = "restarted_elsewhere"  # by Docker's restart policy, compose or a person
    EXITED = "exited"  # none of the above


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause, the log line or message that shows it, and what to do."""

    cause: Cause
    summary: str
    advice: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class ContainerView:
    """All that is published about one supervised container. Times are Unix seconds.

    The counts are since this exporter started; `restarts` and `start_failures` are by cause.
    `config_drift` is None where it is not known, as in mode attached.
    """

    target: str
    mode: str
    state: LifecycleState
    since_time: float
    snapshot: ContainerSnapshot | None
    diagnosis: Diagnosis | None
    docker_problem: DockerProblem | None
    next_attempt_time: float | None
    pull: PullProgress | None
    config_drift: bool | None
    startup_seconds: float | None  # of the last start that became ready
    restarts: Mapping[str, int] = field(default_factory=dict)
    start_failures: Mapping[str, int] = field(default_factory=dict)
    oom_kills: int = 0
    model_loads: int = 0
    health_failures: int = 0
