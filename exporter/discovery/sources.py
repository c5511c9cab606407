"""Runs one discovery loop for each source in the settings, and changes them at a reload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.discovery.kinds import kind_of
from exporter.discovery.loop import DiscoveryLoop
from exporter.discovery.targets.discovered_targets import DiscoveredTargets, TargetQuota
from exporter.loops import LoopHeartbeat

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable, Callable

    from exporter.clock import Clock
    from exporter.config import DiscoverySettings, SourceSettings, Target
    from exporter.container.docker.hosts import DockerHosts
    from exporter.discovery.sink import DiscoverySink
    from exporter.loops import LoopSink, Spawn

    Deliver = Callable[[str, tuple[Target, ...]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _RunningSource:
    settings: SourceSettings
    targets: DiscoveredTargets[Target]
    task: Task[None]


class DiscoverySources:
    """The sources of the settings that `apply` got last.

    `deliver` gets a source's name with all targets that the source has now. It raises
    `ExporterError` if it cannot run them.
    """

    def __init__(
        self,
        deliver: Deliver,
        *,
        clock: Clock,
        spawn: Spawn,
        sink: DiscoverySink,
        loops: LoopSink,
        docker: DockerHosts,
    ) -> None:
        self._clock = clock
        self._spawn = spawn
        self._sink = sink
        self._loops = loops
        self._docker = docker
        self._deliver = deliver
        self._running: dict[str, _RunningSource] = {}
        self._quota = TargetQuota(0)

    def apply(self, settings: DiscoverySettings) -> None:
        """Run these sources from now on. A source with unchanged settings keeps its loop.

        A source with changed settings gets a new loop and keeps its targets: those that it no
        longer finds stay for `gone_after_seconds`. The caller drops a removed source's targets.
        """
        self._quota.limit = settings.max_targets
        wanted = settings.sources()
        before = self._running
        for name, running in before.items():
            if wanted.get(name) != running.settings:
                running.task.cancel()
            if name not in wanted:
                self._quota.forget(name)
                self._sink.source_removed(name)
        self._running = {
            name: self._kept_or_started(name, each, before.get(name))
            for name, each in wanted.items()
        }

    def tasks(self) -> list[Task[None]]:
        """The running loops."""
        return [running.task for running in self._running.values()]

    def _kept_or_started(
        self, name: str, settings: SourceSettings, before: _RunningSource | None
    ) -> _RunningSource:
        if before is None:
            targets: DiscoveredTargets[Target] = DiscoveredTargets(
                name, settings.gone_after_seconds, self._quota
            )
        elif before.settings == settings:
            return before
        else:
            targets = before.targets
            targets.gone_after_seconds = settings.gone_after_seconds
        return _RunningSource(settings, targets, self._start(name, settings, targets))

    def _start(
        self, name: str, settings: SourceSettings, targets: DiscoveredTargets[Target]
    ) -> Task[None]:
        kind = kind_of(name)
        self._sink.source_added(name, kind.failures)
        heartbeat = LoopHeartbeat(f"discovery:{name}", self._loops, self._clock)
        loop = DiscoveryLoop(
            name,
            kind.create(settings, self._clock, self._docker),
            targets,
            refresh_seconds=settings.refresh_seconds,
            finds=kind.finds,
            sink=self._sink,
            heartbeat=heartbeat,
            deliver=lambda found: self._deliver(name, found),
        )
        return self._spawn(heartbeat, loop.run)
