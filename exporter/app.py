"""The daemon: builds the objects, owns the root tasks, orders start and shutdown."""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from exporter.container.supervisor import Supervisor
from exporter.engine.client import Deadlines, EngineClient
from exporter.engine.scraper import Scraper
from exporter.errors import EngineUnavailableError, ExporterError
from exporter.probe.control import ColdControl
from exporter.probe.gate import Gate
from exporter.probe.guest import GuestPolicy, first_delays
from exporter.probe.prober import Prober
from exporter.probe.retention_loop import RetentionLoop, RetentionPlan, RetentionSinks
from exporter.probe.scenario_library import load_scenarios
from exporter.probe.session import SessionPlan, SessionRunner
from exporter.probe.watches import SaltPlan, SaltSinks, SaltWatch
from exporter.publish.cost_state import Prices
from exporter.publish.history import History
from exporter.publish.metrics import Metrics, new_registry
from exporter.publish.server import HttpServer, create_app
from exporter.supervision import ward_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from exporter.clock import Clock
    from exporter.config import ContainerSettings, ProbeSettings, Settings, Target
    from exporter.container.records import ContainerView
    from exporter.model import EngineView, PauseReason, SessionResult
    from exporter.probe.inquiry import Observe

log = structlog.get_logger(__name__)


def deadlines(probe: ProbeSettings) -> Deadlines:
    """The deadlines of a turn, from the settings."""
    return Deadlines(
        connect=probe.connect_timeout_seconds,
        first_token=probe.first_token_timeout_seconds,
        between_tokens=probe.between_tokens_timeout_seconds,
        whole=probe.turn_timeout_seconds,
    )


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


def guest_policy(probe: ProbeSettings) -> GuestPolicy:
    """What an engine is spared, from the settings."""
    return GuestPolicy(
        probe.tokens_per_hour, probe.max_waiting_requests, probe.max_kv_cache_usage_ratio
    )


def session_plan(target: str, probe: ProbeSettings) -> SessionPlan:
    """What all sessions of a target have in common, from the settings.

    Raises `ConfigError` where a scenario file has mistakes.
    """
    kind, *others = load_scenarios(probe.scenario)
    return SessionPlan(target, kind, probe.max_tokens, deadlines(probe), others=tuple(others))


def retention_plan(
    target: str, probe: ProbeSettings, delay: float, jitter: Callable[[], float]
) -> RetentionPlan:
    """The gaps and their schedule, from the settings."""
    return RetentionPlan(
        target,
        probe.retention_gaps_seconds,
        delay,
        probe.retention_interval_seconds,
        deadlines(probe),
        jitter,
    )


def new_salt() -> str:
    """A cache salt that no request ever had."""
    return secrets.token_hex(16)


class Daemon:
    """Measures every target of the settings and publishes what it finds, until it is stopped."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        registry = new_registry()
        self._metrics = Metrics(registry, turn_label_limit=settings.probe.turn_label_limit)
        self._history = History(settings.history.sessions, settings.history.failures)
        self._server = HttpServer(
            create_app(registry=registry, metrics=self._metrics, history=self._history, clock=clock)
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
        return f"http://{shown}:{self._server.port}"

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
            log.info("daemon.started", url=self.url, targets=len(self._settings.targets))
            if started is not None:
                started()
            await self._run_loops(stop)
            log.info("daemon.stopping")

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
        self._probe(target, client, scraper.refresh, delay)
        if target.container is not None:
            await self._supervise(target, target.container, stack)

    def _probe(self, target: Target, client: EngineClient, observe: Observe, delay: float) -> None:
        """The loops that ask something of an engine; both pass its one gate."""
        probe, clock, metrics, name = self._settings.probe, self._clock, self._metrics, target.name
        loop = f"probe:{name}"
        prices = Prices(target.price_per_hour, target.currency, target.watts)
        metrics.target_budget(name, probe.tokens_per_hour or None, prices)

        def gate_looked(paused: PauseReason | None) -> None:
            metrics.gate_looked(name, paused)
            metrics.loop_ran(loop, clock.time())

        def jitter() -> float:
            return random.uniform(1 - probe.jitter_ratio, 1 + probe.jitter_ratio)

        gate = Gate(name, guest_policy(probe), observe, clock, gate_looked)
        control = ColdControl(probe.control_ratio, random.random, new_salt)
        plan = session_plan(name, probe)
        prober = Prober(
            name,
            SessionRunner(plan, client, observe, clock, new_salt, control=control),
            gate,
            clock,
            first_delay_seconds=delay,
            interval_seconds=probe.interval_seconds,
            jitter=jitter,
            publish=self._session_finished,
            on_loop_failure=lambda: metrics.loop_failed(loop),
            on_loop_run=lambda: metrics.loop_ran(loop, clock.time()),
        )
        self._loops.append((loop, prober.run))
        if probe.retention_gaps_seconds:
            # A session comes first: it is what people look for.
            later = delay + probe.interval_seconds
            self._retain(retention_plan(name, probe, later, jitter), client, observe, gate)
        if probe.isolation_interval_seconds:
            # Half way between two sessions, so that neither waits for the other.
            plan_of_salts = SaltPlan(
                name,
                delay + probe.interval_seconds / 2,
                probe.isolation_interval_seconds,
                deadlines(probe),
                jitter,
            )
            self._watch_salts(plan_of_salts, client, observe, gate)

    def _watch_salts(
        self, plan: SaltPlan, client: EngineClient, observe: Observe, gate: Gate
    ) -> None:
        metrics, clock, loop = self._metrics, self._clock, f"isolation:{plan.target}"
        watch = SaltWatch(
            plan,
            client,
            gate,
            observe=observe,
            clock=clock,
            new_salt=new_salt,
            sinks=SaltSinks(
                reading=metrics.salts_tried,
                consumed=lambda tokens: metrics.consumed(plan.target, tokens),
                loop_failed=lambda: metrics.loop_failed(loop),
                loop_ran=lambda: metrics.loop_ran(loop, clock.time()),
            ),
        )
        self._loops.append((loop, watch.run))

    def _retain(
        self, plan: RetentionPlan, client: EngineClient, observe: Observe, gate: Gate
    ) -> None:
        metrics, clock, loop = self._metrics, self._clock, f"retention:{plan.target}"
        retention = RetentionLoop(
            plan,
            client,
            gate,
            observe=observe,
            clock=clock,
            new_salt=new_salt,
            sinks=RetentionSinks(
                reading=metrics.retention_read,
                consumed=lambda tokens: metrics.consumed(plan.target, tokens),
                loop_failed=lambda: metrics.loop_failed(loop),
                loop_ran=lambda: metrics.loop_ran(loop, clock.time()),
            ),
        )
        self._loops.append((loop, retention.run))

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


async def _endless(name: str, loop: Callable[[], Coroutine[None, None, None]]) -> None:
    await loop()
    raise RuntimeError(f"the loop {name} ended by itself")
