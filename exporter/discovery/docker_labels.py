"""Containers with a label, from Docker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.records import DockerError, DockerProblem
from exporter.container.docker.hosts import DockerHosts
from exporter.discovery.targets.labels import targets_of
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure, DiscoveryResult

if TYPE_CHECKING:
    from exporter.config import DockerDiscovery
    from exporter.container.docker.engine import DockerEngine

_REASONS = {
    DockerProblem.TIMEOUT: DiscoveryFailure.TIMEOUT,
    DockerProblem.UNREACHABLE: DiscoveryFailure.UNREACHABLE,
    DockerProblem.PERMISSION_DENIED: DiscoveryFailure.PERMISSION_DENIED,
}


class DockerSource:
    """One Docker Engine and one label."""

    def __init__(self, settings: DockerDiscovery, hosts: DockerHosts | None = None) -> None:
        self._settings = settings
        self._hosts = hosts or DockerHosts()
        self._place = settings.docker_host, settings.docker_timeout_seconds
        self._door: DockerEngine | None = None

    async def query(self) -> DiscoveryResult:
        if self._door is None:
            self._door = self._hosts.acquire(*self._place)
        try:
            containers = await self._door.find(self._settings.label)
        except DockerError as error:
            reason = _REASONS.get(error.problem, DiscoveryFailure.API_ERROR)
            raise DiscoveryError(reason, error.detail) from error
        return targets_of(containers, self._settings)

    async def close(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            await self._hosts.release(*self._place)
