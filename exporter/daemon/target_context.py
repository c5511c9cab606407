"""What every running target works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.container.docker.hosts import DockerHosts

if TYPE_CHECKING:
    from exporter.clock import Clock
    from exporter.loops import Spawn
    from exporter.metrics.history import History
    from exporter.metrics.sink import Metrics


@dataclass(frozen=True, slots=True)
class TargetContext:
    """Where it publishes, what time it is, who owns its loops, which exporter this is, and the
    doors to Docker.
    """

    clock: Clock
    metrics: Metrics
    history: History
    spawn: Spawn
    instance: str | None = None
    docker: DockerHosts = field(default_factory=DockerHosts)
