"""One target that is measured: its client, its loops, its container."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.daemon.container_supervision import ContainerSupervision
from exporter.daemon.probing import Probing, engine_client
from exporter.engine.scraper import Scraper
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.cost import Prices
from exporter.metrics.state.target import TargetState

if TYPE_CHECKING:
    from exporter.config import Target
    from exporter.daemon.shared_settings import SharedSettings
    from exporter.daemon.target_context import TargetContext
    from exporter.loops import Loop
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult

log = structlog.get_logger(__name__)

HALT_SECONDS = 5.0
"""How long cancelled loops may take to end. They end at once; a mistake of ours must not hold up
the rest of the fleet."""


@dataclass(frozen=True, slots=True)
class Identity:
    """All that decides how a target runs. `authority` changes with what is in its `ca_file`."""

    target: Target
    shared: SharedSettings
    authority: str


@dataclass(frozen=True, slots=True)
class FirstRuns:
    """When a target has its first turns, in seconds from its start."""

    session: float
    first_scrape: float
    second_scrape: float


class Running:
    """Made, which can fail and changes nothing; then started; in the end halted and closed."""

    def __init__(
        self, identity: Identity, context: TargetContext, before: Running | None = None
    ) -> None:
        """`before` is the same target as it runs until now. Raises `ExporterError`."""
        self.identity = identity
        self.target = identity.target
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []
        self._halted = False
        target, scrape = identity.target, identity.shared.scrape
        self._state = TargetState(target.name, target.mode, target.base_url)
        if before is not None and self.same_engine(before):
            self._state = before._state  # noqa: SLF001 - of the same class
        self._scrape_heartbeat = self._heartbeat("scrape")
        self._client = engine_client(target, scrape.timeout_seconds)
        self._scraper = Scraper(
            target.name,
            self._client,
            context.clock,
            interval_seconds=scrape.interval_seconds,
            timeout_seconds=scrape.timeout_seconds,
            publish=self._read,
            on_loop_failure=self._scrape_heartbeat.failed,
            # Not at each reading: a session's own must not hide a loop that has stopped.
            on_loop_round=self._scrape_heartbeat.ran,
            limiter=identity.shared.limiter,
        )
        self._probing = Probing(
            target.name,
            identity.shared.probe,
            identity.shared.scenarios,
            self._client,
            self._scraper.refresh,
            clock=context.clock,
            sink=self._state,
            heartbeat=self._heartbeat,
        )
        self._supervision = self._new_supervision(before)

    def _new_supervision(self, before: Running | None) -> ContainerSupervision | None:
        """None also where the one of before can stay; see `take_over_container`."""
        if self.target.container is None or self._can_keep(before):
            return None
        client = engine_client(self.target, self.target.container.health_timeout_seconds)
        return ContainerSupervision(self.target, client, self._context, self._state)

    def _heartbeat(self, kind: str) -> LoopHeartbeat:
        name = f"{kind}:{self.target.name}"
        return LoopHeartbeat(name, self._state.loops, self._context.clock)

    def _can_keep(self, before: Running | None) -> bool:
        if before is None or before.identity.authority != self.identity.authority:
            return False
        if not self.same_engine(before):
            return False  # it publishes in the state of that engine
        supervision = before._supervision  # noqa: SLF001 - of the same class
        return supervision is not None and supervision.serves(self.target)

    def same_engine(self, before: Running) -> bool:
        """Whether what is known of the target as it ran before is about this engine, too."""
        return _engine(before.target) == _engine(self.target)

    @property
    def session_due_at(self) -> float | None:
        """When the next session is due, in monotonic seconds; None before it was started."""
        return self._probing.due_at

    @property
    def scrape_due_at(self) -> float | None:
        """When it is read next, in monotonic seconds; None before it was started."""
        return self._scraper.due_at

    def announce(self) -> None:
        """Put the target on the page, with nothing known of it."""
        target, shared, state = self.target, self.identity.shared, self._state
        state.interval_seconds = shared.probe.interval_seconds
        state.cost.budget_tokens_per_hour = shared.probe.tokens_per_hour or None
        state.cost.prices = Prices(target.price_per_hour, target.currency, target.watts)
        state.cost.keep_retention(shared.probe.retention_gaps_seconds)
        state.keep_scenarios({each.name for each in shared.scenarios})
        self._context.metrics.add(state)

    def take_over_container(self, before: Running) -> None:
        """Go on with the container of before: before that one is halted."""
        if self._can_keep(before):
            self._supervision, before._supervision = before._supervision, None
        elif self._supervision is not None and before._supervision is not None:
            self._supervision.take_over(before._supervision)

    def take_over(self, before: Running) -> None:
        """Go on with what is known of the same engine, and was spent there: once it is halted."""
        self._scraper.take_over(before._scraper)
        self._probing.take_over(before._probing)

    def start(self, turns: FirstRuns) -> set[str]:
        """Run every loop of the target. Returns their names."""
        self.announce()

        async def scrape() -> None:
            await self._scraper.run(turns.first_scrape, turns.second_scrape)

        supervision = self._supervision
        if supervision is not None and not supervision.tasks():
            supervision.start()
        loops: list[tuple[LoopHeartbeat, Loop]] = [(self._scrape_heartbeat, scrape)]
        for heartbeat, loop in self._probing.loops(self, turns.session):
            loops.append((heartbeat, loop if supervision is None else _once_up(supervision, loop)))
        self._tasks = [self._context.spawn(heartbeat, loop) for heartbeat, loop in loops]
        return {task.get_name() for task in self._all_tasks()}

    def _all_tasks(self) -> list[asyncio.Task[None]]:
        return [*self._tasks, *(self._supervision.tasks() if self._supervision else [])]

    async def halt(self) -> set[str]:
        """End every loop. Returns their names."""
        self._halted = True
        tasks = self._all_tasks()
        for task in tasks:
            task.cancel()
        if tasks:
            _, overdue = await asyncio.wait(tasks, timeout=HALT_SECONDS)
            if overdue:
                names = sorted(task.get_name() for task in overdue)
                log.error("target.loops_overdue", target=self.target.name, loops=names)
        return {task.get_name() for task in tasks}

    async def close(self) -> None:
        """After the loops: close every connection; stop or remove the container where its
        settings say so and nobody took it over. Doing it twice changes nothing.
        """
        supervision, self._supervision = self._supervision, None
        try:
            await self._client.close()
        finally:
            if supervision is not None:
                await supervision.close()

    def session_finished(self, result: SessionResult) -> None:
        """Publish a session, unless it ended after its loop."""
        if self._halted:
            return
        self._context.history.add(result)
        self._state.session_finished(result)
        if self._supervision is not None:
            self._supervision.session_finished(result)

    def _read(self, view: EngineView) -> None:
        self._state.engine_scraped(view)
        if self._supervision is not None and not self._halted:
            self._supervision.engine_read(view)


def _once_up(supervision: ContainerSupervision, loop: Loop) -> Loop:
    """The loop, begun when the container is up: before that every request would fail."""

    async def run() -> None:
        await supervision.up()
        await loop()

    return run


def _engine(target: Target) -> tuple[str, str, str]:
    return target.mode, target.base_url, target.effective_metrics_url
