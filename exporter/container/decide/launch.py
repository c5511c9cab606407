"""From plain settings to the container that Docker is asked for, and to the equal `docker run`.

Facts about the image: its entrypoint is `vllm serve`, so the model comes first and flags follow.
Up to about 0.11 it was `python3 -m vllm.entrypoints.openai.api_server`, which wants --model: a
model in first place is refused up to 0.9, and from 0.10 on ignored: another one is loaded. It
runs as root, so the caches lie under /root/.cache (vLLM's docker/Dockerfile and the "Using Docker"
page of its documentation). huggingface_hub reads the token from the variable HF_TOKEN, else from
the file that HF_TOKEN_PATH names (huggingface_hub/constants.py).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
from dataclasses import astuple, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from exporter.container.decide.records import (
    CONFIG_HASH_LABEL,
    INSTANCE_LABEL,
    MANAGED_LABEL,
    GpuRequest,
    Launch,
    Mount,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from exporter.container.decide.records import ContainerSnapshot

DEFAULT_IMAGE = "vllm/vllm-openai:v0.32.0"
VLLM_PORT = 8000  # what vLLM listens on unless told
HF_CACHE_TARGET = "/root/.cache/huggingface"
COMPILE_CACHE_TARGET = "/root/.cache/vllm"
HF_TOKEN_TARGET = "/run/secrets/hf_token"  # noqa: S105 - a path, not a secret
# The version of the hash's recipe: a hash made by another recipe says nothing about drift.
HASH_RECIPE = "v1"
# Who owns a container does not make it another one.
_NOT_HASHED = frozenset({CONFIG_HASH_LABEL, INSTANCE_LABEL})


class TokenPlace(StrEnum):
    """How the container gets a token whose value is given when it is made."""

    FILE = "file"  # docker inspect does not show it
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What a person may say about a container to be made. Values are checked by the settings.

    None leaves a flag out, so that vLLM's own default holds. `args` come last, so they win.
    `command` replaces vLLM's whole command line, for an image that is not vLLM's.
    `hf_token`: a token's value is given when the container is made. `hf_token_host_file` mounts
    a file of Docker's host instead. `secret_environment` names further variables whose values
    are given at that time.
    """

    target: str
    name: str
    model: str
    image: str = DEFAULT_IMAGE
    served_model_name: str | None = None
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    prompt_tokens_details: bool = True
    prefix_caching: bool | None = None
    block_size: int | None = None
    args: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    gpus: GpuRequest | None = field(default_factory=lambda: GpuRequest(count=-1))
    ipc_host: bool = False
    shm_bytes: int | None = None
    memory_bytes: int | None = None
    huggingface_cache: str | None = None  # a directory of the host, or a volume's name
    compile_cache: str | None = None
    mounts: tuple[Mount, ...] = ()
    hf_token: TokenPlace | None = None
    hf_token_host_file: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_environment: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    instance: str | None = None
    network: str | None = None
    host_ip: str = "127.0.0.1"
    host_port: int | None = VLLM_PORT
    container_port: int = VLLM_PORT


def plan(spec: LaunchSpec) -> Launch:
    """The container that `spec` describes, with its labels on it."""
    port = _listening_port(spec)
    bare = Launch(
        name=spec.name,
        image=spec.image,
        command=spec.command if spec.command is not None else tuple(_vllm_command(spec, port)),
        environment=_environment(spec),
        secret_environment=_secret_names(spec),
        labels={**spec.labels, **_owner(spec)},
        mounts=tuple(_mounts(spec)),
        gpus=spec.gpus,
        ipc_host=spec.ipc_host,
        shm_bytes=None if spec.ipc_host else spec.shm_bytes,  # the host's IPC has the host's size
        network=spec.network,
        host_ip=spec.host_ip,
        host_port=None if spec.network == "host" else spec.host_port,
        container_port=port,
        memory_bytes=spec.memory_bytes,
        secret_files={"HF_TOKEN": HF_TOKEN_TARGET} if spec.hf_token is TokenPlace.FILE else {},
    )
    return replace(bare, labels={**bare.labels, CONFIG_HASH_LABEL: config_hash(bare)})


def for_image(launch: Launch, entrypoint: Sequence[str] | None, *, old: bool) -> Launch:
    """The launch of vLLM with the command that an image of this entrypoint takes.

    None: the entrypoint is not known. Then it counts whether the image's tag is `old`, as where the
    entrypoint is a script. The hash stays: it is about what was asked for.
    """
    words = " ".join(entrypoint or ())
    if entrypoint is not None and not words:
        return replace(launch, command=("vllm", "serve", *launch.command))
    by_flag = "api_server" in words or (old and "vllm serve" not in words)
    return replace(launch, command=("--model", *launch.command)) if by_flag else launch


def is_another_model(asked: str, loaded: str) -> bool:
    """Whether vLLM says of itself that it loaded another model.

    A path may stand for a name: where a copy of the model lies is not known here.
    """
    if loaded.startswith("/") and not asked.startswith("/"):
        return False
    return asked.rstrip("/") != loaded.rstrip("/")


def parse_gpus(text: str | int) -> GpuRequest | None:
    """`all`, a count, 0 for none, or ids: `device=0`, `0,1`, `GPU-…`. ValueError says what is.

    A number alone is a count, as in `docker run --gpus`; one id alone needs `device=`.
    """
    said = str(text).strip()
    if said == "all":
        return GpuRequest(count=-1)
    if said.isascii() and said.isdigit():
        return GpuRequest(count=int(said)) if int(said) else None
    ids = tuple(part.strip() for part in said.removeprefix("device=").split(","))
    if not all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9:./_-]*", part) for part in ids):
        raise ValueError(
            f"{said!r} names no GPUs: write all, a count, 0 for none, or ids as in device=0,1"
        )
    return GpuRequest(device_ids=ids)


def config_hash(launch: Launch) -> str:
    """A short hash of all that makes the container what it is, whatever the order of its maps.

    The values of secrets are not known here: a token that was changed is no drift.
    """
    facts: dict[str, Any] = {f.name: getattr(launch, f.name) for f in fields(launch)}
    facts["labels"] = {k: v for k, v in launch.labels.items() if k not in _NOT_HASHED}
    facts["environment"] = dict(launch.environment)
    facts["mounts"] = sorted(astuple(mount) for mount in launch.mounts)
    facts["secret_environment"] = sorted(launch.secret_environment)
    facts["secret_files"] = dict(launch.secret_files)
    facts["gpus"] = astuple(launch.gpus) if launch.gpus is not None else None
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return f"{HASH_RECIPE}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def has_drifted(container: ContainerSnapshot, launch: Launch) -> bool | None:
    """Whether the container was made from other settings; None where its label cannot tell."""
    made_from = container.labels.get(CONFIG_HASH_LABEL, "")
    if not made_from.startswith(f"{HASH_RECIPE}-"):
        return None
    return made_from != launch.labels.get(CONFIG_HASH_LABEL)


def docker_run_line(launch: Launch) -> str:
    """The `docker run` command that makes and starts the same container, quoted for a shell.

    A secret stands as `-e NAME`: docker takes its value from the environment it is called in.
    `docker run` cannot put a file into a container, so a secret file stands as a variable too.
    """
    words = ["docker", "run", "--detach", "--name", launch.name]
    for key, value in sorted(launch.labels.items()):
        words += ["--label", f"{key}={value}"]
    words += _resource_words(launch)
    for mount in launch.mounts:
        words += ["--mount", _mount_word(mount)]
    for key, value in launch.environment.items():
        words += ["-e", f"{key}={value}"]
    for name in dict.fromkeys((*launch.secret_environment, *launch.secret_files)):
        words += ["-e", name]
    if launch.network is not None:
        words += ["--network", launch.network]
    if launch.host_port is not None:
        words += ["-p", _port_word(launch)]
    return shlex.join([*words, launch.image, *launch.command])


def is_owned(container: ContainerSnapshot, target: str, instance: str | None) -> bool:
    """Whether a container was made for this target by this exporter.

    Earlier releases did not write down which exporter it was: theirs are taken over.
    """
    if container.labels.get(MANAGED_LABEL) != target:
        return False
    other = container.labels.get(INSTANCE_LABEL)
    return other is None or instance is None or other == instance


def _owner(spec: LaunchSpec) -> dict[str, str]:
    owner = {MANAGED_LABEL: spec.target}
    return owner if spec.instance is None else owner | {INSTANCE_LABEL: spec.instance}


def _listening_port(spec: LaunchSpec) -> int:
    """With the host's network nothing is published: vLLM itself listens on the host's port."""
    if spec.network == "host" and spec.host_port is not None:
        return spec.host_port
    return spec.container_port


def _vllm_command(spec: LaunchSpec, port: int) -> Iterator[str]:
    yield spec.model
    valued = {
        "--served-model-name": spec.served_model_name,
        "--gpu-memory-utilization": spec.gpu_memory_utilization,
        "--max-model-len": spec.max_model_len,
        "--block-size": spec.block_size,
        "--host": spec.host_ip if spec.network == "host" else None,
        "--port": port if port != VLLM_PORT else None,
    }
    for flag, value in valued.items():
        if value is not None:
            yield flag
            yield str(value)
    if spec.prompt_tokens_details:
        yield "--enable-prompt-tokens-details"
    if spec.prefix_caching is not None:
        yield "--enable-prefix-caching" if spec.prefix_caching else "--no-enable-prefix-caching"
    yield from spec.args


def _environment(spec: LaunchSpec) -> dict[str, str]:
    if spec.hf_token is not TokenPlace.FILE and spec.hf_token_host_file is None:
        return dict(spec.environment)
    return {"HF_TOKEN_PATH": HF_TOKEN_TARGET, **spec.environment}


def _secret_names(spec: LaunchSpec) -> tuple[str, ...]:
    token = ("HF_TOKEN",) if spec.hf_token is TokenPlace.ENVIRONMENT else ()
    named = (*token, *spec.secret_environment)
    return tuple(dict.fromkeys(named))


def _mounts(spec: LaunchSpec) -> Iterable[Mount]:
    if spec.huggingface_cache is not None:
        yield Mount(spec.huggingface_cache, HF_CACHE_TARGET)
    if spec.compile_cache is not None:
        yield Mount(spec.compile_cache, COMPILE_CACHE_TARGET)
    if spec.hf_token_host_file is not None and spec.hf_token is not TokenPlace.FILE:
        yield Mount(spec.hf_token_host_file, HF_TOKEN_TARGET, read_only=True)
    yield from spec.mounts


def _resource_words(launch: Launch) -> list[str]:
    words: list[str] = []
    if launch.gpus is not None:
        words += ["--gpus", _gpus_word(launch.gpus)]
    if launch.ipc_host:
        words += ["--ipc", "host"]
    if launch.shm_bytes is not None:
        words += ["--shm-size", str(launch.shm_bytes)]
    if launch.memory_bytes is not None:
        words += ["--memory", str(launch.memory_bytes)]
    return words


def _gpus_word(gpus: GpuRequest) -> str:
    if gpus.device_ids:
        return _csv(f"device={','.join(gpus.device_ids)}")  # docker reads --gpus as a line of CSV
    return "all" if gpus.count == -1 else str(gpus.count)


def _mount_word(mount: Mount) -> str:
    kind = "bind" if mount.source.startswith("/") else "volume"
    cells = [f"type={kind}", f"source={mount.source}", f"target={mount.target}"]
    return _csv(*cells, *(["readonly"] if mount.read_only else []))


def _port_word(launch: Launch) -> str:
    address = f"[{launch.host_ip}]" if ":" in launch.host_ip else launch.host_ip
    return f"{address}:{launch.host_port}:{launch.container_port}"


def _csv(*cells: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
