"""One target that is measured: its client, its loops, its container."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from exporter.daemon.container_supervision import ContainerSupervision
from exporter.daemon.probing import Probing, engine_client
from exporter.engine.scraper import Scraper
from exporter.metrics.state.cost import Prices

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from exporter.config import Target
    from exporter.daemon.shared_settings import SharedSettings
    from exporter.daemon.target_context import TargetContext
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult

    Loop = Callable[[], Coroutine[None, None, None]]

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
        self._loop = f"scrape:{target.name}"
        self._client = engine_client(target, scrape.timeout_seconds)
        self._scraper = Scraper(
            target.name,
            self._client,
            context.clock,
            interval_seconds=scrape.interval_seconds,
            timeout_seconds=scrape.timeout_seconds,
            publish=self._read,
            on_loop_failure=lambda: context.metrics.loop_failed(self._loop),
            # Not at each reading: a session's own must not hide a loop that has stopped.
            on_loop_round=lambda: context.metrics.loop_ran(self._loop, context.clock.time()),
            limiter=identity.shared.limiter,
        )
        self._probing = Probing(
            target.name,
            identity.shared.probe,
            identity.shared.scenarios,
            self._client,
            self._scraper.refresh,
            clock=context.clock,
            metrics=context.metrics,
        )
        self._supervision = self._new_supervision(before)

    def _new_supervision(self, before: Running | None) -> ContainerSupervision | None:
        """None also where the one of before can stay; see `take_over_container`."""
        if self.target.container is None or self._can_keep(before):
            return None
        client = engine_client(self.target, self.target.container.health_timeout_seconds)
        return ContainerSupervision(self.target, client, self._context)

    def _can_keep(self, before: Running | None) -> bool:
        if before is None or before.identity.authority != self.identity.authority:
            return False
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
        target, metrics = self.target, self._context.metrics
        metrics.target_added(target.name, mode=target.mode, url=target.base_url)
        prices = Prices(target.price_per_hour, target.currency, target.watts)
        probe = self.identity.shared.probe
        metrics.target_budget(target.name, probe.tokens_per_hour or None, prices)
        metrics.sessions_every(target.name, probe.interval_seconds)
        metrics.retention_wanted(target.name, probe.retention_gaps_seconds)
        metrics.scenarios_wanted(
            target.name, {each.name for each in self.identity.shared.scenarios}
        )

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
        loops = [(self._loop, scrape)]
        for name, loop in self._probing.loops(self._finished, turns.session):
            loops.append((name, loop if supervision is None else _once_up(supervision, loop)))
        self._tasks = [self._context.spawn(name, loop) for name, loop in loops]
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

    def _finished(self, result: SessionResult) -> None:
        if self._halted:
            return
        self._context.history.add(result)
        self._context.metrics.session_finished(result)
        if self._supervision is not None:
            self._supervision.session_finished(result)

    def _read(self, view: EngineView) -> None:
        self._context.metrics.engine_scraped(view)
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
