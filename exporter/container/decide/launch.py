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

# The version of the hash's recipe: a hash made by another recipe says nothing about drift.
HASH_RECIPE = "v1"
# Who owns a container does not make it another one.
_NOT_HASHED = frozenset({CONFIG_HASH_LABEL, INSTANCE_LABEL})


def with_hash(launch: Launch) -> Launch:
    """The launch with a label that holds the hash of its settings."""
    return replace(launch, labels={**launch.labels, CONFIG_HASH_LABEL: config_hash(launch)})


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
