"""The daemon: builds the objects, owns the root tasks, orders start and shutdown."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from exporter.container.supervisor import Supervisor
from exporter.engine.client import EngineClient
from exporter.engine.scraper import Scraper
from exporter.errors import EngineUnavailableError, ExporterError
from exporter.probe.guest import first_delays
from exporter.probing import Probing
from exporter.publish.cost_state import Prices
from exporter.publish.history import History
from exporter.publish.metrics import Metrics, new_registry
from exporter.publish.server import HttpServer, create_app
from exporter.report.charts import session_picture
from exporter.supervision import ward_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from exporter.clock import Clock
    from exporter.config import ContainerSettings, Settings, Target
    from exporter.config.web_config import WebConfig
    from exporter.container.records import ContainerView
    from exporter.model import EngineView, SessionResult

log = structlog.get_logger(__name__)


def engine_client(target: Target, timeout_seconds: float) -> EngineClient:
    """The client of one target. Raises `ExporterError` where its certificates cannot be read."""
    try:
        return EngineClient(
            target.base_url,
            api_key=None if target.api_key is None else target.api_key.get_secret_value(),
            model=target.model,
            metrics_url=target.metrics_url,
            verify_tls=target.verify_tls,
            ca_file=None if target.ca_file is None else str(target.ca_file),
            timeout_seconds=timeout_seconds,
        )
    except OSError as error:
        raise ExporterError(
            f"target {target.name!r}: ca_file {target.ca_file} is no file of certificates: {error}"
        ) from error


class Daemon:
    """Measures every target of the settings and publishes what it finds, until it is stopped."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        registry = new_registry()
        self._metrics = Metrics(registry, turn_label_limit=settings.probe.turn_label_limit)
        self._history = History(settings.history.sessions, settings.history.failures)
        self._web_config = _web_config(settings.web_config_file)
        self._server = HttpServer(
            create_app(
                registry=registry,
                metrics=self._metrics,
                history=self._history,
                clock=clock,
                draw=session_picture,
                grafana_url=settings.page.grafana_url,
            ),
            web_config=self._web_config,
        )
        self._loops: list[tuple[str, Callable[[], Coroutine[None, None, None]]]] = []
        self._supervisors: dict[str, Supervisor] = {}

    @property
    def url(self) -> str:
        """Where the page is, once it is served."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - compared, not bound
            self._settings.listen.host, self._settings.listen.host
        )
        shown = f"[{host}]" if ":" in host else host
        secure = self._web_config is not None and self._web_config.tls is not None
        return f"{'https' if secure else 'http'}://{shown}:{self._server.port}"

    async def run(self, stop: asyncio.Event, started: Callable[[], None] | None = None) -> None:
        """Serve and measure until `stop` is set.

        Raises `ExporterError` where the address cannot be had. A loop that ends by itself is a
        mistake of ours and ends the daemon.
        """
        async with AsyncExitStack() as stack:
            targets = self._settings.targets
            delays = first_delays(len(targets), self._settings.probe.interval_seconds)
            for target, delay in zip(targets, delays, strict=True):
                await self._add(target, delay, stack)
            listen = self._settings.listen
            await self._server.start(listen.host, listen.port)
            stack.push_async_callback(self._server.stop)
            self._watch_web_config()
            log.info("daemon.started", url=self.url, targets=len(self._settings.targets))
            if started is not None:
                started()
            await self._run_loops(stop)
            log.info("daemon.stopping")

    def _watch_web_config(self) -> None:
        if self._web_config is None:
            return
        from exporter.publish.web_watch import WebConfigWatch  # noqa: PLC0415 - as in _web_config

        def looked(in_force: bool) -> None:
            self._metrics.web_config_looked_at(in_force=in_force)
            self._metrics.loop_ran("web_config", self._clock.time())

        def failed() -> None:
            self._metrics.loop_failed("web_config")

        watch = WebConfigWatch(self._web_config, self._clock, self._server.apply, looked, failed)
        self._loops.append(("web_config", watch.run))

    async def _run_loops(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_endless(name, loop), name=name) for name, loop in self._loops
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _add(self, target: Target, delay: float, stack: AsyncExitStack) -> None:
        settings = self._settings
        # A loop of one target that hangs must be seen although those of other targets run.
        scrape_loop = f"scrape:{target.name}"
        client = await stack.enter_async_context(
            engine_client(target, settings.scrape.timeout_seconds)
        )
        self._metrics.target_added(target.name, mode=target.mode, url=target.base_url)
        scraper = Scraper(
            target.name,
            client,
            self._clock,
            interval_seconds=settings.scrape.interval_seconds,
            timeout_seconds=settings.scrape.timeout_seconds,
            publish=lambda view: self._engine_scraped(view, scrape_loop),
            on_loop_failure=lambda: self._metrics.loop_failed(scrape_loop),
        )
        self._loops.append((scrape_loop, scraper.run))
        prices = Prices(target.price_per_hour, target.currency, target.watts)
        budget = settings.probe.tokens_per_hour or None
        self._metrics.target_budget(target.name, budget, prices)
        probing = Probing(
            target.name,
            settings.probe,
            client,
            scraper.refresh,
            delay=delay,
            clock=self._clock,
            metrics=self._metrics,
        )
        self._loops += probing.loops(self._session_finished)
        if target.container is not None:
            await self._supervise(target, target.container, stack)

    async def _supervise(
        self, target: Target, container: ContainerSettings, stack: AsyncExitStack
    ) -> None:
        # Only here is Docker's library needed: a daemon without containers never loads it.
        from exporter.container.docker_engine import (  # noqa: PLC0415 - see above
            DockerEngine,
            DockerLimits,
        )

        loop = f"supervise:{target.name}"
        door = DockerEngine(
            container.docker_host, DockerLimits(query=container.docker_timeout_seconds)
        )
        stack.push_async_callback(door.close)
        client = await stack.enter_async_context(
            engine_client(target, container.health_timeout_seconds)
        )

        async def healthy() -> bool:
            try:
                return await client.healthy()
            except EngineUnavailableError:
                return False

        def publish(view: ContainerView) -> None:
            self._metrics.container_changed(view)
            self._metrics.loop_ran(loop, self._clock.time())

        supervisor = Supervisor(
            ward_of(target),
            door,
            self._clock,
            healthy=healthy,
            jitter=random.random,
            publish=publish,
            on_loop_failure=lambda: self._metrics.loop_failed(loop),
        )
        self._supervisors[target.name] = supervisor
        stack.push_async_callback(supervisor.shutdown)
        self._loops.append((loop, supervisor.run))

    def _engine_scraped(self, view: EngineView, loop: str) -> None:
        self._metrics.engine_scraped(view)
        self._metrics.loop_ran(loop, self._clock.time())

    def _session_finished(self, result: SessionResult) -> None:
        self._history.add(result)
        self._metrics.session_finished(result)
        supervisor = self._supervisors.get(result.target)
        if supervisor is not None:
            supervisor.session_finished(result)


def _web_config(file: Path | None) -> WebConfig | None:
    if file is None:
        return None
    # Only here are the libraries needed that read it.
    from exporter.config.web_config import read_web_config  # noqa: PLC0415 - see above

    config = read_web_config(file)
    if config.http2:
        log.info("web_config.http2_ignored", reason="this server speaks HTTP/1.1 only")
    return config


async def _endless(name: str, loop: Callable[[], Coroutine[None, None, None]]) -> None:
    await loop()
    raise RuntimeError(f"the loop {name} ended by itself")
