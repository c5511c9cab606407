"""From a target's settings to what the container room works with: plain records, and the secrets.

The container room knows no settings object; this is where the two meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.config.schema.vllm_flags import version_of
from exporter.container.decide.launch import LaunchSpec, TokenPlace, plan
from exporter.container.decide.observation import Health, HealthAnswer, failed_health
from exporter.container.decide.policy import Policy
from exporter.container.decide.records import GpuRequest, Mount
from exporter.container.supervisor_config import SupervisorConfig
from exporter.errors import ConfigError, EngineUnavailableError
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from exporter.config import ContainerSettings, Target
    from exporter.container.decide.records import Launch
    from exporter.engine.client.engine_client import EngineClient

# The last version whose image has an entrypoint that wants --model; `vllm serve` of that version
# takes the flag, too.
_LAST_BY_FLAG = (0, 11)
_API_KEY = "VLLM_API_KEY"  # vLLM demands this key on /v1 (vllm/envs.py)


class EngineChecks:
    """`exporter.container.door.EngineDoor` by a client."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def health(self, seconds: float) -> HealthAnswer:
        """GET /health, which may take so long."""
        try:
            await self._client.healthy(seconds)
        except EngineUnavailableError as error:
            return failed_health(Failure(FailureReason(error.reason), error.detail))
        return HealthAnswer(Health.OK)

    async def rests(self) -> bool:
        """Whether the engine says that it sleeps or is paused."""
        return await self._client.rests()

    async def loaded(self) -> str | None:
        """The model that the engine says that it loaded."""
        return await self._client.loaded_model()


def container_of(target: Target) -> ContainerSettings:
    """The container section of a target that has a container."""
    if target.container is None:
        raise ConfigError(
            f"target {target.name!r} is {target.mode}: it has no container to look after"
        )
    return target.container


def launch_of(target: Target, instance: str | None = None) -> Launch:
    """The container that a managed target's settings describe, made by this exporter."""
    container = container_of(target)
    file_or_variable = TokenPlace(container.hf_token_as)
    return plan(
        LaunchSpec(
            target=target.name,
            name=target.container_name or target.name,
            model=container.model or "",
            image=container.image,
            served_model_name=container.served_model_name,
            gpu_memory_utilization=container.gpu_memory_utilization,
            max_model_len=container.max_model_len,
            prompt_tokens_details=container.enable_prompt_tokens_details,
            prefix_caching=container.prefix_caching,
            block_size=container.block_size,
            args=container.args,
            command=container.command,
            gpus=_gpus(container),
            ipc_host=container.ipc_host,
            shm_bytes=container.shm_size,
            memory_bytes=container.memory_limit,
            huggingface_cache=_unless_none(container.hf_cache),
            compile_cache=_unless_none(container.vllm_cache),
            mounts=tuple(_mount(text) for text in container.mounts),
            hf_token=None if container.hf_token is None else file_or_variable,
            environment=container.environment,
            secret_environment=_secret_names(target, container),
            network=container.network,
            host_ip=container.host_ip,
            host_port=container.host_port or None,
            instance=instance,
        )
    )


def model_of(target: Target) -> str | None:
    """The model that vLLM is told to load; None where the command is not vLLM's own."""
    container = container_of(target)
    return container.model if container.command is None else None


def has_old_image(target: Target) -> bool:
    """Whether the image's tag is of a time when its entrypoint wanted --model."""
    version = version_of(container_of(target).image)
    return version is not None and version <= _LAST_BY_FLAG


def secrets_of(target: Target) -> dict[str, str]:
    """The values that the launch names without holding them."""
    container = container_of(target)
    values = {
        name: value.get_secret_value() for name, value in container.secret_environment.items()
    }
    if container.hf_token is not None:
        values["HF_TOKEN"] = container.hf_token.get_secret_value()
    if target.api_key is not None:
        values[_API_KEY] = target.api_key.get_secret_value()
    return values


def policy_of(target: Target) -> Policy:
    """What the supervisor may do to a target's container, and how patient it is."""
    container = container_of(target)
    return Policy(
        managed=target.mode == "managed",
        may_restart=target.may_restart,
        recreate_on_drift=container.on_drift == "recreate",
        start_deadline_seconds=container.start_deadline_seconds,
        quiet_deadline_seconds=container.quiet_deadline_seconds,
        paused_deadline_seconds=container.paused_deadline_seconds,
        health_failures=container.health_failures,
        probe_failures=container.probe_failures,
        restarts_per_hour=container.restarts_per_hour,
        first_delay_seconds=container.backoff.initial_seconds,
        delay_factor=container.backoff.factor,
        longest_delay_seconds=container.backoff.max_seconds,
        jitter_ratio=container.backoff.jitter_ratio,
        stable_seconds=container.backoff.reset_after_seconds,
    )


def supervisor_config_of(target: Target, instance: str | None = None) -> SupervisorConfig:
    """Whom the supervisor looks after, and how."""
    container = container_of(target)
    managed = target.mode == "managed"
    hold_file = container.hold_file
    return SupervisorConfig(
        target=target.name,
        mode=target.mode,
        policy=policy_of(target),
        launch=launch_of(target, instance) if managed else None,
        secrets=secrets_of(target) if managed else None,
        model=model_of(target) if managed else None,
        old_image=has_old_image(target),
        reference=target.container_name,
        label=container.label,
        look_seconds=container.health_interval_seconds,
        health_seconds=container.health_timeout_seconds,
        stop_grace_seconds=container.stop_grace_seconds,
        stop_at_shutdown=container.on_shutdown == "stop",
        remove_at_shutdown=container.on_shutdown == "remove",
        held=lambda: hold_file is not None and hold_file.exists(),
    )


def _secret_names(target: Target, container: ContainerSettings) -> tuple[str, ...]:
    key = () if target.api_key is None else (_API_KEY,)
    return (*container.secret_environment, *key)


def _gpus(container: ContainerSettings) -> GpuRequest | None:
    gpus = container.gpus
    if isinstance(gpus, tuple):
        return GpuRequest(device_ids=gpus)
    if gpus == "all":
        return GpuRequest(count=-1)
    return GpuRequest(count=int(gpus)) if gpus else None


def _unless_none(text: str) -> str | None:
    return None if text == "none" else text


def _mount(text: str) -> Mount:
    source, target, *mode = text.split(":")
    return Mount(source, target, read_only=mode == ["ro"])
