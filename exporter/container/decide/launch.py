"""About a launch: the command that its image accepts, its hash, and the equal `docker run` line.

The entrypoint of vLLM's image is `vllm serve`, so the model comes first and flags follow. Up to
about 0.11 it was `python3 -m vllm.entrypoints.openai.api_server`, which needs --model: it refuses a
model in first place up to 0.9, and from 0.10 on ignores it and loads another model.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
from dataclasses import astuple, fields, replace
from typing import TYPE_CHECKING, Any

from exporter.container.decide.records import (
    CONFIG_HASH_LABEL,
    INSTANCE_LABEL,
    MANAGED_LABEL,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.container.decide.records import ContainerSnapshot, GpuRequest, Launch, Mount

# The version of the hash. Hashes of different versions cannot be compared.
HASH_RECIPE = "v1"
# The owner of a container is not one of its settings.
_NOT_HASHED = frozenset({CONFIG_HASH_LABEL, INSTANCE_LABEL})


def with_hash(launch: Launch) -> Launch:
    """The launch with a label that holds the hash of its settings."""
    return replace(launch, labels={**launch.labels, CONFIG_HASH_LABEL: config_hash(launch)})


def for_image(launch: Launch, entrypoint: Sequence[str] | None, *, old: bool) -> Launch:
    """The launch of vLLM with the command that an image with this entrypoint accepts.

    `old` (the tag is of a version that needs --model) decides where the entrypoint is not known
    (None) or is a script. The hash stays: it is about the settings.
    """
    words = " ".join(entrypoint or ())
    if entrypoint is not None and not words:
        return replace(launch, command=("vllm", "serve", *launch.command))
    by_flag = "api_server" in words or (old and "vllm serve" not in words)
    return replace(launch, command=("--model", *launch.command)) if by_flag else launch


def is_another_model(asked: str, loaded: str) -> bool:
    """Whether vLLM loaded another model than the settings say.

    A path in place of a name is not another model: it can be a local copy.
    """
    if loaded.startswith("/") and not asked.startswith("/"):
        return False
    return asked.rstrip("/") != loaded.rstrip("/")


def config_hash(launch: Launch) -> str:
    """A short hash of everything in the launch, independent of the order of its maps.

    Another value of a secret is no drift: the launch does not hold it.
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
    """Whether the container was created from other settings; None without a hash to compare."""
    made_from = container.labels.get(CONFIG_HASH_LABEL, "")
    if not made_from.startswith(f"{HASH_RECIPE}-"):
        return None
    return made_from != launch.labels.get(CONFIG_HASH_LABEL)


def docker_run_line(launch: Launch) -> str:
    """The `docker run` command that creates and starts the same container, quoted for a shell.

    A secret is written as `-e NAME`: docker reads its value from its own environment. `docker run`
    cannot write a file into a container, so a secret file becomes a variable, too.
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
    """Whether this exporter created the container for this target.

    Containers of earlier releases have no instance label: they are taken over.
    """
    if container.labels.get(MANAGED_LABEL) != target:
        return False
    other = container.labels.get(INSTANCE_LABEL)
    return other is None or instance is None or other == instance


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
        return _csv(f"device={','.join(gpus.device_ids)}")  # docker parses --gpus as CSV
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
