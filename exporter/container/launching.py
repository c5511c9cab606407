"""From a managed target's settings to the container to create, and the values of its secrets.

vLLM's image runs as root, so its caches lie under /root/.cache (vLLM's docker/Dockerfile and the
"Using Docker" page of its documentation). huggingface_hub reads the token from the variable
HF_TOKEN, else from the file that HF_TOKEN_PATH names (huggingface_hub/constants.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.config.schema.reach import VLLM_PORT
from exporter.container.decide.launch import with_hash
from exporter.container.decide.records import (
    INSTANCE_LABEL,
    MANAGED_LABEL,
    GpuRequest,
    Launch,
    Mount,
)
from exporter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.config import ContainerSettings, Target

HF_CACHE_TARGET = "/root/.cache/huggingface"
COMPILE_CACHE_TARGET = "/root/.cache/vllm"
HF_TOKEN_TARGET = "/run/secrets/hf_token"  # noqa: S105 - a path, not a secret
_TOKEN = "HF_TOKEN"  # noqa: S105 - a name
_API_KEY = "VLLM_API_KEY"  # vLLM demands this key on /v1 (vllm/envs.py)


def container_of(target: Target) -> ContainerSettings:
    """The container section of a target. Raises `ConfigError` where there is none."""
    if target.container is None:
        raise ConfigError(f"target {target.name!r} has mode {target.mode}: it has no container")
    return target.container


def launch_of(target: Target, instance: str | None = None) -> Launch:
    """The container that a managed target's settings describe; `instance` names this exporter."""
    container = container_of(target)
    on_host_network = container.network == "host"
    # With the host's network nothing is published: vLLM itself listens on the host's port.
    port = container.host_port or VLLM_PORT if on_host_network else VLLM_PORT
    as_file = container.hf_token is not None and container.hf_token_as == "file"  # noqa: S105 - a way
    secrets = [name for name in secrets_of(target) if name != _TOKEN or not as_file]
    labels = {MANAGED_LABEL: target.name}
    return with_hash(
        Launch(
            name=target.container_name or target.name,
            image=container.image,
            command=container.command or tuple(_vllm_command(container, port)),
            environment={
                **({"HF_TOKEN_PATH": HF_TOKEN_TARGET} if as_file else {}),
                **container.environment,
            },
            secret_environment=tuple(secrets),
            labels=labels if instance is None else labels | {INSTANCE_LABEL: instance},
            mounts=tuple(_mounts(container)),
            gpus=_gpus(container),
            ipc_host=container.ipc_host,
            # The host's IPC namespace has a size of its own.
            shm_bytes=None if container.ipc_host else container.shm_size,
            network=container.network,
            host_ip=container.host_ip,
            host_port=None if on_host_network else container.host_port or None,
            container_port=port,
            memory_bytes=container.memory_limit,
            secret_files={_TOKEN: HF_TOKEN_TARGET} if as_file else {},
        )
    )


def secrets_of(target: Target) -> dict[str, str]:
    """The value of each secret that the launch names."""
    container = container_of(target)
    secrets = {
        _TOKEN: container.hf_token,
        **container.secret_environment,
        _API_KEY: target.api_key,
    }
    return {name: text.get_secret_value() for name, text in secrets.items() if text is not None}


def _vllm_command(container: ContainerSettings, port: int) -> Iterator[str]:
    """The model first, the user's `args` last, so that they win."""
    yield container.model or ""
    valued = {
        "--served-model-name": container.served_model_name,
        "--gpu-memory-utilization": container.gpu_memory_utilization,
        "--max-model-len": container.max_model_len,
        "--block-size": container.block_size,
        "--host": container.host_ip if container.network == "host" else None,
        "--port": port if port != VLLM_PORT else None,
    }
    for flag, value in valued.items():
        if value is not None:
            yield flag
            yield str(value)
    if container.enable_prompt_tokens_details:
        yield "--enable-prompt-tokens-details"
    if container.prefix_caching is not None:
        on = container.prefix_caching
        yield "--enable-prefix-caching" if on else "--no-enable-prefix-caching"
    yield from container.args


def _mounts(container: ContainerSettings) -> Iterator[Mount]:
    if container.hf_cache != "none":
        yield Mount(container.hf_cache, HF_CACHE_TARGET)
    if container.vllm_cache != "none":
        yield Mount(container.vllm_cache, COMPILE_CACHE_TARGET)
    for text in container.mounts:
        source, target, *mode = text.split(":")
        yield Mount(source, target, read_only=mode == ["ro"])


def _gpus(container: ContainerSettings) -> GpuRequest | None:
    gpus = container.gpus
    if isinstance(gpus, tuple):
        return GpuRequest(device_ids=gpus)
    if gpus == "all":
        return GpuRequest(count=-1)
    return GpuRequest(count=int(gpus)) if gpus else None
