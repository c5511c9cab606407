"""Creates a container from a Launch: its JSON for Docker, and its secret files."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Any

import docker.types

from exporter.container.decide.records import DockerError
from exporter.container.docker.errors import translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.container.decide.records import Launch
    from exporter.container.docker.transport import DockerClient


def create(at: DockerClient, launch: Launch, secrets: Mapping[str, str]) -> str:
    created = at.api.create_container(
        launch.image,
        list(launch.command),
        name=launch.name,
        environment={
            **launch.environment,
            **{name: secrets[name] for name in launch.secret_environment},
        },
        labels=dict(launch.labels),
        ports=[launch.container_port],  # Docker publishes only ports that are named here
        host_config=_host_config(at, launch),
        # ~/.docker/config.json must add nothing to the launch.
        use_config_proxy=False,
    )
    container_id = str(created["Id"])
    if launch.secret_files:
        try:
            with translated(f"put secrets into {launch.name}"):
                at.api.put_archive(container_id, "/", _secrets_archive(launch, secrets))
        except DockerError:
            at.api.remove_container(container_id, v=True)
            raise
    return container_id


def _host_config(at: DockerClient, launch: Launch) -> dict[str, Any]:
    ports: dict[int | str, Any] = {launch.container_port: (launch.host_ip, launch.host_port)}
    config: dict[str, Any] = at.api.create_host_config(
        mounts=[
            docker.types.Mount(
                mount.target,
                mount.source,
                type="bind" if mount.source.startswith("/") else "volume",
                read_only=mount.read_only,
            )
            for mount in launch.mounts
        ],
        device_requests=_device_requests(launch),
        ipc_mode="host" if launch.ipc_host else None,
        shm_size=launch.shm_bytes,
        mem_limit=launch.memory_bytes,
        network_mode=launch.network,
        port_bindings=None if launch.host_port is None else ports,
    )
    return config


def _device_requests(launch: Launch) -> list[docker.types.DeviceRequest] | None:
    if launch.gpus is None:
        return None
    if launch.gpus.device_ids:
        chosen: dict[str, Any] = {"device_ids": list(launch.gpus.device_ids)}
    else:
        chosen = {"count": launch.gpus.count}
    return [docker.types.DeviceRequest(capabilities=[["gpu"]], **chosen)]


def _secrets_archive(launch: Launch, secrets: Mapping[str, str]) -> bytes:
    """A tar of the secret files. Docker unpacks it as root, so everyone may read them: the image's
    user must be able to, and nobody else is in the container.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, path in launch.secret_files.items():
            value = secrets[name].encode()
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size = len(value)
            member.mode = 0o444
            tar.addfile(member, io.BytesIO(value))
    return archive.getvalue()
