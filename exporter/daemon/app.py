"""The daemon: builds the objects, owns the root tasks, orders start, reload and shutdown."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from exporter import logs
from exporter.daemon.fleet import Fleet, FleetChanges
from exporter.daemon.reload import Reloader, refuse_what_needs_a_restart
from exporter.daemon.rules_file import RulesFile
from exporter.daemon.shared_settings import shared_settings_of
from exporter.daemon.target_context import TargetContext
from exporter.daemon.target_lists import TargetLists
from exporter.discovery.sources import DiscoverySources
from exporter.errors import ExporterError
from exporter.loops import LoopHeartbeat, endless
from exporter.metrics.history import History
from exporter.metrics.store import Metrics
from exporter.otlp.push import OtlpPush
from exporter.report import charts
from exporter.web.access import web_access
from exporter.web.on_demand import route as on_demand
from exporter.web.reload_route import routes as reload_routes
from exporter.web.server import HttpServer, create_app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.clock import Clock
    from exporter.config import Settings, Target
    from exporter.loops import Loop
    from exporter.model.session import SessionResult

log = structlog.get_logger(__name__)


def _plain_report(session: SessionResult) -> str:
    # The tables take 3 MB.
    from exporter.report.session.plain import (  # noqa: PLC0415 - few daemons are asked for one
        plain_report,
    )

    return plain_report(session)


class Daemon:
    """Measures every target and publishes the results until it is stopped.

    `read_again` reads the settings again for a reload. It may block, and raises `ConfigError` with
    every mistake. Creating a daemon raises `ConfigError` for mistakes in the files that the
    settings name.
    """

    def __init__(
        self, settings: Settings, clock: Clock, read_again: Callable[[], Settings] | None = None
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._read_again = read_again
        self._group: asyncio.TaskGroup | None = None
        self._metrics = Metrics(
            turn_label_limit=settings.probe.turn_label_limit,
            whole_page_targets=settings.metrics.whole_page_targets,
        )
        self._otlp = self._make_otlp(settings)
        self._history = History(settings.history.sessions, settings.history.failures)
        self._context = TargetContext(
            clock,
            self._metrics,
            self._history,
            self._spawn,
            instance=settings.instance,
            rules=RulesFile(settings.reuse_rules_file),
            traces=self._otlp.session_finished if self._otlp else lambda _result: None,
        )
        self._fleet = Fleet(shared_settings_of(settings.probe, settings.scrape), self._context)
        self._lists = TargetLists(settings.targets)
        self._discovery = DiscoverySources(
            self.discovered,
            clock=clock,
            spawn=self._spawn,
            sink=self._metrics.exporter,
            loops=self._metrics.exporter.loops,
            docker=self._context.docker,
        )
        self._changing = asyncio.Lock()  # guards the lists and the fleet
        self._reloader = Reloader(self._reload, self._metrics.exporter.reloads, clock)
        self._server, self._web = self._make_web(settings)

    def _make_otlp(self, settings: Settings) -> OtlpPush | None:
        if not settings.otlp.enabled:
            return None
        listen = settings.listen
        instance = f"{socket.gethostname()}:{listen.port}"
        return OtlpPush(settings.otlp, self._metrics, self._clock, instance=instance)

    def _make_web(self, settings: Settings) -> tuple[HttpServer, web_access.WebAccess]:
        """The HTTP server, with its TLS and passwords."""
        file = settings.web_config_file
        config = None if file is None else web_access.read(file)
        if settings.web_probe_enabled:
            web_access.require_authentication("web_probe_enabled", config)
        app = create_app(
            metrics=self._metrics,
            history=self._history,
            clock=self._clock,
            draw=charts.session_picture,
            offers_pictures=charts.is_available(),
            grafana_url=settings.page.grafana_url,
            http_sd_address=settings.metrics.http_sd_address,
        )
        play = self._fleet.play_on_demand if settings.web_probe_enabled else None
        app.add_routes(on_demand.routes(self._metrics, play, _plain_report))
        app.add_routes(reload_routes(self._reloader.ask if settings.web_reload_enabled else None))
        server = HttpServer(app, web_config=config, grace_seconds=settings.shutdown.grace_seconds)
        return server, web_access.WebAccess(
            config,
            server.apply,
            heartbeat=LoopHeartbeat("web_config", self._metrics.exporter.loops, self._clock),
            spawn=self._spawn,
            sink=self._metrics.exporter,
        )

    @property
    def url(self) -> str:
        """The URL of the status page, after the server started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104 - compared, not bound
            self._settings.listen.host, self._settings.listen.host
        )
        shown = f"[{host}]" if ":" in host else host
        config = self._web.config
        secure = config is not None and config.tls is not None
        return f"{'https' if secure else 'http'}://{shown}:{self._server.port}"

    async def run(self, stop: asyncio.Event, started: Callable[[], None] | None = None) -> None:
        """Serve and measure until `stop` is set.

        Raises `ExporterError` if it cannot listen on the address.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._fleet.close)
            plan = await self._fleet.prepare(self._lists.merged())
            with self._metrics.swap(len(plan.created)):
                for each in plan.created:
                    each.register()
            listen = self._settings.listen
            await self._server.start(listen.host, listen.port)
            stack.push_async_callback(self._server.stop)
            self._metrics.exporter.reloads.in_force(self._clock.time())
            async with asyncio.TaskGroup() as group:
                self._group = group
                await self._fleet.swap(plan)
                self._web.start()
                self._discovery.apply(self._settings.discovery)
                heartbeat = LoopHeartbeat("reload", self._metrics.exporter.loops, self._clock)
                own = [self._spawn(heartbeat, self._reloader.run)]
                if self._otlp is not None:
                    own += self._otlp.start(self._spawn)
                log.info("daemon.started", url=self.url, targets=len(self._settings.targets))
                if started is not None:
                    started()
                await stop.wait()
                await self._end(own)
            log.info("daemon.stopping")

    def request_reload(self) -> None:
        """Reload the configuration, for SIGHUP. The log has the outcome."""
        self._reloader.ask()

    async def discovered(self, source: str, targets: Sequence[Target]) -> FleetChanges:
        """Measure these targets in place of those that `source` found before.

        A target whose name is taken, by the configuration or an earlier source, is left out and
        logged. Raises `ExporterError` if one of them cannot run; then nothing has changed.
        """
        async with self._changing:
            lists = self._lists.with_found(source, targets)
            changes = await self._fleet.apply(lists.merged())
            self._lists = lists
            return changes

    async def _reload(self) -> str:
        """Read and apply the settings. Returns what changed, in words.

        Raises `ExporterError`; then nothing has changed.
        """
        if self._read_again is None:
            raise ExporterError("this daemon has no configuration to reload")
        old, new = self._settings, await asyncio.to_thread(self._read_again)
        refuse_what_needs_a_restart(old, new)
        put_web_config = await self._web.check(new.web_config_file)
        shared = await asyncio.to_thread(shared_settings_of, new.probe, new.scrape)
        async with self._changing:
            lists = self._lists.with_static(new.targets)
            for gone in old.discovery.sources().keys() - new.discovery.sources().keys():
                lists = lists.without(gone)
            changes = await self._fleet.apply(lists.merged(), shared, commit=put_web_config)
            self._lists = lists
            self._discovery.apply(new.discovery)  # before a removed source can deliver again
        self._settings = new
        self._metrics.limit_turns(new.probe.turn_label_limit)
        self._metrics.limit_whole_page(new.metrics.whole_page_targets)
        self._history.resize(new.history.sessions, new.history.failures)
        logs.configure(new.log.format, new.log.level)
        return changes.in_words()

    async def _end(self, own: Sequence[asyncio.Task[None]]) -> None:
        self._reloader.end()
        for task in (*own, *self._web.tasks(), *self._discovery.tasks()):
            task.cancel()
        await self._fleet.stop()
        if self._otlp is not None:
            await self._otlp.close(self._settings.shutdown.grace_seconds)

    def _spawn(self, heartbeat: LoopHeartbeat, loop: Loop) -> asyncio.Task[None]:
        if self._group is None:
            raise RuntimeError(f"the daemon does not run, so the loop {heartbeat.name} cannot")
        return self._group.create_task(endless(heartbeat, loop), name=heartbeat.name)
