"""One DockerEngine for each Docker host, shared by all its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.container.docker.engine import DockerEngine

_Key = tuple[str, float]  # host and timeout


@dataclass(slots=True)
class _Shared:
    engine: DockerEngine
    users: int = 0


class DockerHosts:
    """Opens a DockerEngine for its first user and closes it after the last one."""

    def __init__(self) -> None:
        self._open: dict[_Key, _Shared] = {}

    def acquire(self, host: str, timeout_seconds: float) -> DockerEngine:
        """The DockerEngine of that host, until `release`. Raises `DockerError`."""
        # Docker's library takes 6 MB: only a daemon with containers loads it.
        from exporter.container.docker.engine import (  # noqa: PLC0415 - see above
            DockerEngine,
            DockerLimits,
        )

        key = host, timeout_seconds
        if key not in self._open:
            engine = DockerEngine(host, DockerLimits(query=timeout_seconds))
            self._open[key] = _Shared(engine)
        shared = self._open[key]
        shared.users += 1
        return shared.engine

    async def release(self, host: str, timeout_seconds: float) -> None:
        """Give a DockerEngine back."""
        shared = self._open[host, timeout_seconds]
        shared.users -= 1
        if not shared.users:
            del self._open[host, timeout_seconds]
            await shared.engine.close()
