"""One running target: its client, its loops, its container."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from exporter.daemon.kv_events import KvEventReception
from exporter.daemon.probing import ProbeLoops, engine_client
from exporter.engine.scraper import Scraper
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.cost import PRICES, Prices
from exporter.metrics.state.target import TargetState
from exporter.scenario.library import scenario_named

if TYPE_CHECKING:
    from exporter.analysis.own_share import OwnShare
    from exporter.config import Target
    from exporter.daemon.container_supervision import ContainerSupervision
    from exporter.daemon.shared_settings import SharedSettings
    from exporter.daemon.target_context import TargetContext
    from exporter.loops import Loop
    from exporter.model.engine import EngineView
    from exporter.model.on_demand import OnDemandAnswer
    from exporter.model.session import SessionResult

log = structlog.get_logger(__name__)

STOP_TIMEOUT_SECONDS = 5.0
"""For cancelled loops to end. They end at once; one with a bug must not delay the other targets."""


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """All settings of a target. `authority` is a digest of its `ca_file`'s content."""

    target: Target
    shared: SharedSettings
    authority: str

    def runs_like(self, other: TargetSpec) -> bool:
        """Whether the loops of both do the same: they differ in prices and labels at most."""
        return self == other or self._for_loops() == other._for_loops()

    def _for_loops(self) -> TargetSpec:
        published = (*PRICES, "labels")
        return replace(self, target=self.target.model_copy(update=dict.fromkeys(published)))


@dataclass(frozen=True, slots=True)
class FirstRuns:
    """When a target runs its first session and scrapes, in seconds from its start."""

    session: float
    first_scrape: float
    second_scrape: float


class RunningTarget:
    """Creating one can fail and changes nothing. Then: `start`, `stop`, `close`."""

    def __init__(
        self, spec: TargetSpec, context: TargetContext, before: RunningTarget | None = None
    ) -> None:
        """`before` is the running target that this one replaces. Raises `ExporterError`."""
        self.spec = spec
        self.target = spec.target
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        target, scrape = spec.target, spec.shared.scrape
        self._state = TargetState(
            target.name, target.mode, target.base_url, created_time=context.clock.time()
        )
        if before is not None and self.same_engine(before):
            self._state = before._state  # noqa: SLF001 - of the same class
        self._scrape_heartbeat = self._heartbeat("scrape")
        self._client = engine_client(target, scrape.timeout_seconds, spec.shared.probe.api)
        self._scraper = Scraper(
            target.name,
            self._client,
            context.clock,
            interval_seconds=scrape.interval_seconds,
            timeout_seconds=scrape.timeout_seconds,
            sink=self,
            heartbeat=self._scrape_heartbeat,
            limiter=spec.shared.limiter,
            replica_pages=target.replica_pages,
        )
        self._kv_events = KvEventReception.of(target, self._state, self._heartbeat("kv_events"))
        self._probing = ProbeLoops(
            target.name,
            spec.shared.probe,
            spec.shared.scenarios,
            self._client,
            self._scraper.refresh,
            clock=context.clock,
            sink=self._state,
            heartbeat=self._heartbeat,
            rules=context.rules,
            kv_events=self._kv_events.feed if self._kv_events else None,
            adapters=target.adapters,
            publish=self._share_changed,
            pin_ranks=target.data_parallel_ranks == "pinned",
        )
        self._supervision = self._new_supervision(before)

    def _new_supervision(self, before: RunningTarget | None) -> ContainerSupervision | None:
        """None also if the supervision of `before` stays; see `continue_container_of`."""
        if self.target.container is None or self._can_keep(before):
            return None
        # The supervisor takes 1 MB.
        from exporter.daemon.container_supervision import (  # noqa: PLC0415 - only for containers
            ContainerSupervision,
        )

        client = engine_client(self.target, self.target.container.health_timeout_seconds)
        return ContainerSupervision(
            self.target,
            client,
            self._context,
            sink=self._state,
            heartbeat=self._heartbeat("supervise"),
        )

    def _share_changed(self, change: OwnShare) -> None:
        """Tell every target of this engine: what one of them asks is no user's for the others."""
        for state in self._context.metrics.of_engine(self._state.url) or [self._state]:
            state.own_share_changed(change)

    def _heartbeat(self, kind: str) -> LoopHeartbeat:
        name = f"{kind}:{self.target.name}"
        return LoopHeartbeat(name, self._state.loops, self._context.clock)

    def _can_keep(self, before: RunningTarget | None) -> bool:
        if before is None or before.spec.authority != self.spec.authority:
            return False
        if not self.same_engine(before):
            return False  # its supervision publishes to the other engine's state
        supervision = before._supervision  # noqa: SLF001 - of the same class
        return supervision is not None and supervision.serves(self.target)

    def same_engine(self, before: RunningTarget) -> bool:
        """Whether both ask the same engine, so that what is known stays true."""
        return _engine(before.target) == _engine(self.target)

    @property
    def session_due_at(self) -> float | None:
        """When the next session is due, in monotonic seconds; None before `start`."""
        return self._probing.due_at

    def session_due_in(self, now: float) -> float:
        """Seconds until the next session; 0 if that is unknown or the session waits."""
        return max(0.0, (self.session_due_at or now) - now)

    @property
    def scrape_due_at(self) -> float | None:
        """When the next scrape is due, in monotonic seconds; None before `start`."""
        return self._scraper.due_at

    def register(self) -> None:
        """Publish the target, with nothing measured yet."""
        target, shared, state = self.target, self.spec.shared, self._state
        state.interval_seconds = shared.probe.interval_seconds
        state.heartbeat_seconds = shared.probe.heartbeat_interval_seconds or None
        state.cost.budget_tokens_per_hour = shared.probe.tokens_per_hour or None
        self.set_published(target)
        state.cost.keep_retention(shared.probe.retention_gaps_seconds)
        state.keep_scenarios({each.name for each in shared.scenarios})
        state.kv_events = self._kv_events.feed.view if self._kv_events else None
        self._context.metrics.add(state)

    def set_published(self, target: Target) -> None:
        """Take prices and labels, so all settings, of a target that `runs_like` this one."""
        self.target = target
        self.spec = replace(self.spec, target=target)
        self._state.labels = dict(target.labels)
        self._state.cost.prices = Prices(target.price_per_hour, target.currency, target.watts)

    def continue_container_of(self, before: RunningTarget) -> None:
        """Continue with the container of `before`. Call it before that one stops."""
        if self._can_keep(before):
            self._supervision, before._supervision = before._supervision, None
        elif self._supervision is not None and before._supervision is not None:
            self._supervision.continue_from(before._supervision)

    def continue_from(self, before: RunningTarget) -> None:
        """Continue with what `before` learned and spent at the same engine, after it stopped."""
        self._scraper.continue_from(before._scraper)
        self._probing.continue_from(before._probing)
        if self._kv_events is not None and before._kv_events is not None:
            self._kv_events.feed.continue_from(before._kv_events.feed)

    def start(self, first: FirstRuns) -> None:
        """Start every loop, and drop the metrics of loops that the target no longer has."""
        self.register()

        async def scrape() -> None:
            await self._scraper.run(first.first_scrape, first.second_scrape)

        supervision = self._supervision
        if supervision is not None and not supervision.tasks():
            supervision.start()
        loops: list[tuple[LoopHeartbeat, Loop]] = [(self._scrape_heartbeat, scrape)]
        if self._kv_events is not None:
            loops.append((self._kv_events.heartbeat, self._kv_events.run))
        for probe in self._probing.loops(self, first.session):
            loop = probe.run if supervision is None else _once_up(supervision, probe.run)
            loops.append((probe.heartbeat, loop))
        self._tasks = [self._context.spawn(heartbeat, loop) for heartbeat, loop in loops]
        self._state.loops.keep({task.get_name() for task in self._all_tasks()})

    async def play_on_demand(self, scenario: str | None, timeout_seconds: float) -> OnDemandAnswer:
        """Play one session for a client. Raises `NoSuchScenarioError`."""
        played = self.spec.shared.scenarios
        kind = await asyncio.to_thread(scenario_named, scenario, played)  # may read a file
        answer = await self._probing.on_demand.play(kind, timeout_seconds)
        if answer.session is not None:
            self._context.traces(answer.session)
        return answer

    def _all_tasks(self) -> list[asyncio.Task[None]]:
        return [*self._tasks, *(self._supervision.tasks() if self._supervision else [])]

    async def stop(self) -> None:
        """Stop every loop."""
        self._stopped = True
        await self._probing.on_demand.stop()
        tasks = self._all_tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            _, overdue = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_SECONDS)
            if overdue:
                names = sorted(task.get_name() for task in overdue)
                log.error("target.loops_overdue", target=self.target.name, loops=names)

    async def close(self) -> None:
        """Close every connection after `stop`, and handle the container as its settings say,
        unless another target took it over. A second call does nothing.
        """
        supervision, self._supervision = self._supervision, None
        try:
            await self._client.close()
        finally:
            if supervision is not None:
                await supervision.close()

    def session_finished(self, result: SessionResult) -> None:
        """Publish a session or heartbeat, unless the target has stopped."""
        if self._stopped:
            return
        if not result.heartbeat:
            self._context.history.add(result)
        self._state.session_finished(result)
        self._context.traces(result)
        if self._supervision is not None:
            self._supervision.supervisor.session_finished(result)

    def engine_scraped(self, view: EngineView) -> None:
        """Publish a scrape."""
        self._state.engine_scraped(view)
        if self._supervision is not None and not self._stopped:
            self._supervision.supervisor.engine_read(view)


def _once_up(supervision: ContainerSupervision, loop: Loop) -> Loop:
    """The loop, started when the container is up; before that every request would fail."""

    async def run() -> None:
        await supervision.up()
        await loop()

    return run


def _engine(target: Target) -> tuple[str, str, str, tuple[str, ...]]:
    pages = target.effective_metrics_url, target.metrics_urls
    return target.mode, target.base_url, *pages
