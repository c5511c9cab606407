"""Dependencies shared by all targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.container.docker.hosts import DockerHosts
from exporter.daemon.rules_file import RulesFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.loops import Spawn
    from exporter.metrics.history import History
    from exporter.metrics.store import Metrics
    from exporter.model.session import SessionResult


@dataclass(frozen=True, slots=True)
class TargetContext:
    """Clock, sinks, task spawner, connections to Docker, what is known of the engines from before,
    and the name of this exporter. `traces` gets each session and heartbeat that ended.
    """

    clock: Clock
    metrics: Metrics
    history: History
    spawn: Spawn
    instance: str | None = None
    docker: DockerHosts = field(default_factory=DockerHosts)
    rules: RulesFile = field(default_factory=RulesFile)
    traces: Callable[[SessionResult], None] = lambda _result: None
