"""All sources of the settings: which are asked, and which begin, end or begin anew in a reload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.config import DockerDiscovery
from exporter.discovery.decide.discovered_targets import DiscoveredTargets, TargetQuota
from exporter.discovery.decide.records import DiscoveryFailure
from exporter.discovery.dns import DnsSource
from exporter.discovery.docker_labels import DockerSource
from exporter.discovery.loop import DiscoveryLoop
from exporter.loops import LoopHeartbeat

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable, Mapping

    from exporter.clock import Clock
    from exporter.config import DiscoverySettings, DnsDiscovery, Target
    from exporter.container.docker.hosts import DockerHosts
    from exporter.discovery.decide.records import Source
    from exporter.loops import Spawn
    from exporter.metrics.sink import Metrics

    Deliver = Callable[[str, tuple[Target, ...]], Awaitable[object]]

_REASONS = {
    "dns": (
        DiscoveryFailure.TIMEOUT,
        DiscoveryFailure.TEMPORARY,
        DiscoveryFailure.FAILED,
        DiscoveryFailure.REFUSED,
    ),
    "docker": (
        DiscoveryFailure.TIMEOUT,
        DiscoveryFailure.UNREACHABLE,
        DiscoveryFailure.PERMISSION_DENIED,
        DiscoveryFailure.API_ERROR,
        DiscoveryFailure.REFUSED,
    ),
}


def sources_of(
    settings: DiscoverySettings,
) -> Mapping[str, DnsDiscovery | DockerDiscovery]:
    """The sources by the name that they have in the log and the metrics: `dns:vllm`."""
    dns = {f"dns:{each.name}": each for each in settings.dns}
    docker = {f"docker:{each.name}": each for each in settings.docker}
    return dns | docker


@dataclass(frozen=True, slots=True)
class _Asked:
    settings: DnsDiscovery | DockerDiscovery
    found: DiscoveredTargets[Target]
    task: Task[None]


class DiscoverySources:
    """Asks every source of the settings that `apply` was given last.

    `deliver` is given a source's name with all targets that it has now. It raises `ExporterError`
    where it cannot take them.
    """

    def __init__(
        self,
        deliver: Deliver,
        *,
        clock: Clock,
        spawn: Spawn,
        metrics: Metrics,
        docker: DockerHosts,
    ) -> None:
        self._clock = clock
        self._spawn = spawn
        self._metrics = metrics
        self._docker = docker
        self._deliver = deliver
        self._asked: dict[str, _Asked] = {}
        self._quota = TargetQuota(0)

    def apply(self, settings: DiscoverySettings) -> None:
        """Ask these sources from now on. One whose settings are the same goes on as it was.

        One with other settings under its name goes on with the targets that stand: what it does not
        find any more has its grace.

        Whoever was given targets by a source that is gone must drop them.
        """
        self._quota.limit = settings.max_targets
        wanted = sources_of(settings)
        before = self._asked
        for name, asked in before.items():
            if wanted.get(name) != asked.settings:
                asked.task.cancel()
            if name not in wanted:
                self._quota.forget(name)
                self._metrics.discovery_gone(name)
        self._asked = {
            name: self._go_on(name, each, before.get(name)) for name, each in wanted.items()
        }

    def _go_on(
        self, name: str, settings: DnsDiscovery | DockerDiscovery, before: _Asked | None
    ) -> _Asked:
        if before is None:
            found: DiscoveredTargets[Target] = DiscoveredTargets(
                name, settings.gone_after_seconds, self._quota
            )
        elif before.settings == settings:
            return before
        else:
            found = before.found
            found.gone_after_seconds = settings.gone_after_seconds
        return _Asked(settings, found, self._begin(name, settings, found))

    def tasks(self) -> list[Task[None]]:
        """The loops that run."""
        return [asked.task for asked in self._asked.values()]

    def _begin(
        self, name: str, settings: DnsDiscovery | DockerDiscovery, found: DiscoveredTargets[Target]
    ) -> Task[None]:
        kind = name.partition(":")[0]
        self._metrics.discovery_added(name, _REASONS[kind])
        finder = DiscoveryLoop(
            name,
            _source(settings, self._clock, self._docker),
            found,
            refresh_seconds=settings.refresh_seconds,
            clock=self._clock,
            metrics=self._metrics,
            deliver=lambda targets: self._deliver(name, targets),
        )
        heartbeat = LoopHeartbeat(f"discovery:{name}", self._metrics.exporter.loops, self._clock)
        return self._spawn(heartbeat, finder.run)


def _source(settings: DnsDiscovery | DockerDiscovery, clock: Clock, docker: DockerHosts) -> Source:
    if isinstance(settings, DockerDiscovery):
        return DockerSource(settings, docker)
    return DnsSource(settings, clock)
