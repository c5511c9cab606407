"""One door to each Docker Engine, shared by all targets whose containers are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.container.docker.engine import DockerEngine

_Place = tuple[str, float]  # host, and how long one call may take


@dataclass(slots=True)
class _Shared:
    door: DockerEngine
    users: int = 0


class DockerHosts:
    """Opens a door with its first user and closes it with the last one."""

    def __init__(self) -> None:
        self._open: dict[_Place, _Shared] = {}

    def take(self, host: str, timeout_seconds: float) -> DockerEngine:
        """The door to that engine; give it back by `leave`. Raises `DockerError`."""
        # Docker's library takes 6 MB: only a daemon with containers loads it.
        from exporter.container.docker.engine import (  # noqa: PLC0415 - see above
            DockerEngine,
            DockerLimits,
        )

        place = host, timeout_seconds
        if place not in self._open:
            door = DockerEngine(host, DockerLimits(query=timeout_seconds))
            self._open[place] = _Shared(door)
        shared = self._open[place]
        shared.users += 1
        return shared.door

    async def leave(self, host: str, timeout_seconds: float) -> None:
        """Give a door back."""
        shared = self._open[host, timeout_seconds]
        shared.users -= 1
        if not shared.users:
            del self._open[host, timeout_seconds]
            await shared.door.close()
