"""The settings of a supervised vLLM container: how to create it and how to supervise it."""

import operator
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from exporter.config.schema.values import (
    Bytes,
    CacheMount,
    ConfigPath,
    ContainerLabel,
    ContainerName,
    Count,
    CountOrZero,
    DockerHost,
    EnvironmentName,
    GpuChoice,
    IpAddress,
    ModelName,
    MountText,
    PortOrZero,
    Ratio,
    Seconds,
    SecondsOrZero,
    Section,
    Text,
    check_with,
    compared_with,
    keys_of,
    mistake,
    mistake_at,
)
from exporter.config.schema.vllm_flags import flag_mistakes, secret_mistakes

_SECRET_NAME = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
_KEYS_FOR = {
    "HF_TOKEN": "hf_token or hf_token_file",
    "HUGGING_FACE_HUB_TOKEN": "hf_token or hf_token_file",
    "VLLM_API_KEY": "the target's api_key or api_key_file",
}


def _check_pinned(image: str) -> str:
    """A moving tag would change the measured engine at the next restart."""
    found = re.fullmatch(
        r"(?P<name>[^\s@]+?)(?::(?P<tag>[\w.-]+))?(?P<digest>@\w+:[0-9a-f]+)?", image
    )
    if not found or not (found["tag"] or found["digest"]):
        raise mistake('must be an image with a tag or a digest, such as "vllm/vllm-openai:v0.32.0"')
    if found["tag"] == "latest" and not found["digest"]:
        raise mistake('must have a tag that stays the same, such as "vllm/vllm-openai:v0.32.0"')
    return image


Image = Annotated[str, AfterValidator(_check_pinned)]


class BackoffSettings(Section):
    """How long to wait after a failed start before the next one."""

    initial_seconds: Seconds = 5.0
    """The wait after the first failure, in seconds. The default is short, because most first
    failures are temporary."""

    max_seconds: Annotated[
        Seconds, compared_with("initial_seconds", "must not be below", operator.ge)
    ] = 300.0
    """The longest wait, in seconds. Each start loads tens of gigabytes, so a container that crashes
    again and again must wait long. Five minutes is still a short wait after the cause is fixed."""

    factor: Annotated[float, Field(ge=1)] = 2.0
    """Each wait is the previous wait times this factor."""

    jitter_ratio: Ratio = 0.1
    """Each wait is shortened by a random share of up to this value, so that a fleet does not load
    its models at the same time."""

    reset_after_seconds: Seconds = 600.0
    """After this many seconds in `ready`, the next failure counts as a first failure."""


class LaunchSettings(Section):
    """How to create the container: for mode `managed` only."""

    image: Image = "vllm/vllm-openai:v0.32.0"
    """The image, with a fixed tag or a digest."""

    model: ModelName | None = None
    """The model that the server loads: a name on Hugging Face, or a path inside the container (see
    `mounts`). Required, unless `command` is set."""

    served_model_name: ModelName | None = None
    """The name under which the server offers the model; the model's own name if not set."""

    gpus: GpuChoice = "all"
    """`"all"`, a count, `0` for none, or a list of device ids (`"device=0,1"` is one too)."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of GPU memory for weights, activations and KV cache together, above 0
    and up to 1; vLLM's default if not set."""

    max_model_len: Count | None = None
    """The longest prompt plus answer, in tokens; the model's own limit if not set."""

    block_size: Count | None = None
    """Tokens per block of the prefix cache; vLLM chooses if not set."""

    prefix_caching: bool | None = None
    """Prefix caching on or off; vLLM's default (on) if not set."""

    enable_prompt_tokens_details: bool = True
    """Makes the server report how many prompt tokens came from the cache. Without it there is no
    hit ratio to measure."""

    args: tuple[Text, ...] = ()
    """More flags of `vllm serve`; a flag and its value are two entries."""

    command: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """The container's whole command line, for an image that is not vLLM's own. It cannot be
    combined with keys that become flags of `vllm serve`."""

    host_ip: IpAddress = "127.0.0.1"
    """The address on which the port is published. The default is loopback, because vLLM answers
    everyone who can reach it."""

    host_port: PortOrZero = 8000
    """The port on which vLLM is published. 0 publishes none; the target then needs a `url` that
    reaches the container through its network."""

    network: Text | None = None
    """A Docker network to join; Docker's default bridge if not set."""

    ipc_host: bool = False
    """Use the host's shared memory in place of `shm_size`. Off by default, because it weakens the
    isolation between container and host."""

    shm_size: Bytes = 8 * 1024**3
    """Shared memory, for example `8g`. Docker's default of 64 MB is too little for tensor
    parallelism. This is a limit; memory is used only as needed."""

    memory_limit: Bytes | None = None
    """The most host memory that the container may use, for example `64g`; no limit if not set."""

    hf_token: SecretStr | None = None
    """Token for gated models on Hugging Face. Open models need no token."""

    hf_token_file: ConfigPath | None = None
    """A file with that token, in place of `hf_token`."""

    hf_token_as: Literal["file", "environment"] = "file"  # noqa: S105 - a way, not a secret
    """How the container gets the token. The default is a file, because `docker inspect` shows
    environment variables to everyone who may call Docker."""

    hf_cache: CacheMount = "vllm-huggingface-cache"
    """Where downloaded models are kept: an absolute path on the host, a Docker volume or
    `"none"`. The default is a volume, so that a new container does not download the model again."""

    vllm_cache: CacheMount = "vllm-compile-cache"
    """Where vLLM keeps compiled code, in the same forms. It shortens the next start."""

    mounts: tuple[MountText, ...] = ()
    """More mounts, for example `/models:/models:ro`."""

    environment: Mapping[EnvironmentName, str] = Field(default_factory=dict)
    """More environment variables. `docker inspect` shows them."""

    secret_environment: Mapping[EnvironmentName, SecretStr] = Field(default_factory=dict)
    """Environment variables whose values are secret: the exporter never shows or logs them.
    `docker inspect` shows them, like all variables, to everyone who may call Docker."""

    @field_validator("args", mode="wrap")
    @classmethod
    def _no_foreign_flags(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        args = value if isinstance(value, list | tuple) else ()
        found = flag_mistakes(args, info.data.get("image"), info.data)
        return check_with(handler, value, [mistake_at(text, place) for place, text in found])

    @field_validator("command", mode="wrap")
    @classmethod
    def _no_secret_flags(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        found = secret_mistakes(value if isinstance(value, list | tuple) else ())
        return check_with(handler, value, [mistake_at(text, place) for place, text in found])

    @field_validator("environment", mode="wrap")
    @classmethod
    def _no_secrets(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        names = [name for name in keys_of(value) if name in _KEYS_FOR or _SECRET_NAME.search(name)]
        keys = {name: _KEYS_FOR.get(name, "secret_environment") for name in names}
        found = [mistake_at(f"looks like a secret: use {key}", name) for name, key in keys.items()]
        return check_with(handler, value, found)

    @field_validator("secret_environment", mode="wrap")
    @classmethod
    def _no_second_way(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        names = [name for name in keys_of(value) if name in _KEYS_FOR]
        found = [mistake_at(f"use {_KEYS_FOR[name]}", name) for name in names]
        return check_with(handler, value, found)


class ContainerSettings(LaunchSettings):
    """One container and how to supervise it. The keys of LaunchSettings are for `managed` only."""

    docker_host: DockerHost = "unix:///var/run/docker.sock"
    """The Docker Engine, or a socket proxy in front of it."""

    docker_timeout_seconds: Seconds = 10.0
    """The limit for one call to Docker, in seconds. Docker usually answers in milliseconds, so a
    call that takes this long hangs. Long operations, such as a pull, have longer limits."""

    name: ContainerName | None = None
    """The container's name. Managed: `vllm-` and the target's name if not set. Attached: the
    container to watch; set either this or `label`."""

    label: ContainerLabel | None = None
    """Attached: watch the container with this label, `key` or `key=value`."""

    start_deadline_seconds: Seconds = 1800.0
    """How long a start may take until the server is ready, in seconds. Large models can load and
    compile for half an hour. A start whose log shows progress may take twice as long."""

    quiet_deadline_seconds: Seconds = 600.0
    """A start that writes nothing to its log for this many seconds counts as hung. Reading weights
    from slow storage can be silent for minutes."""

    paused_deadline_seconds: Seconds = 60.0
    """A container that is paused for this many seconds is unpaused, if the exporter may restart it
    (see `restart`)."""

    health_interval_seconds: Seconds = 5.0
    """Time between two checks of the container and of /health, in seconds."""

    health_timeout_seconds: Seconds = 5.0
    """Timeout of /health, in seconds. It grows with the slowest healthy answer of this engine and
    after each failed check, up to 30 seconds."""

    health_failures: Count = 3
    """This many failed checks of /health in a row make a ready container unhealthy, unless the
    engine's own counters advance meanwhile. A single failure can be a long prefill that blocks the
    server."""

    probe_failures: CountOrZero = 3
    """This many failed probe sessions in a row make the container unhealthy although /health
    answers 200, unless the engine's own counters advance meanwhile. Some GPU faults look like this.
    0 turns this check off."""

    restarts_per_hour: Count = 3
    """The most restarts of a running container within an hour, for failed checks or a hung start. A
    restart drops every request, and after three restarts a fourth is not likely to help. The limit
    does not apply to a container that exited by itself: it is started again after `backoff`."""

    restart: Literal["auto", "always", "never"] = "auto"
    """Whether to restart a container that exited or is unhealthy. `auto`: yes if managed, no if
    attached, because another tool manages that container."""

    backoff: BackoffSettings = BackoffSettings()

    stop_grace_seconds: SecondsOrZero = 30.0
    """Time from SIGTERM to SIGKILL when the container is stopped, in seconds."""

    on_drift: Literal["report", "recreate"] = "report"
    """What to do when the running container differs from these settings: report it, or create it
    again. The default is `report`, because a change of the file alone must not unload a model."""

    hold_file: ConfigPath | None = None
    """While this file exists the exporter does nothing to the container. `touch` it before you work
    on the container by hand, and remove it afterwards."""

    on_shutdown: Literal["leave", "stop", "remove"] = "leave"
    """What happens to the container when the exporter stops. The default is `leave`, because an
    upgrade of the exporter must not reload a model. Use `remove` if `docker compose down` must
    leave nothing."""


# Keys without effect in mode attached: the exporter did not create that container.
MANAGED_ONLY = frozenset(LaunchSettings.model_fields) | {"on_drift", "on_shutdown"}
# Keys that become flags of `vllm serve`.
ENGINE_FLAGS = frozenset(
    {
        "model",
        "served_model_name",
        "gpu_memory_utilization",
        "max_model_len",
        "block_size",
        "prefix_caching",
        "enable_prompt_tokens_details",
        "args",
    }
)
