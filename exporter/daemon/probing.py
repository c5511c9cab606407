"""Makes the loops that probe a target from its settings. They share one admission."""

from __future__ import annotations

import random
import secrets
from functools import cached_property, partial
from typing import TYPE_CHECKING

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.additions import Additions
from exporter.engine.wire.request import Deadlines
from exporter.engine.wire.surfaces.named import CHAT_COMPLETIONS, SURFACES
from exporter.errors import ExporterError
from exporter.loops import Periodic, Schedule
from exporter.model.probe import Due
from exporter.probe.admission import Admission
from exporter.probe.context import ProbeContext
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.on_demand import OnDemandProbe
from exporter.probe.scheduled.heartbeat_probe import HeartbeatProbe, LastShown
from exporter.probe.scheduled.isolation_probe import IsolationProbe
from exporter.probe.scheduled.retention_probe import RetentionProbe
from exporter.probe.scheduled.session_probe import SessionProbe
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.analysis.own_share import OwnShare
    from exporter.clock import Clock
    from exporter.config import ProbeSettings, Target
    from exporter.daemon.rules_file import RulesFile
    from exporter.engine.events.feed import KvEventFeed
    from exporter.loops import LoopHeartbeat, Round
    from exporter.model.engine import Adapters
    from exporter.probe.replicas import Observe
    from exporter.probe.sink import ProbeSink, SessionSink
    from exporter.scenario.model import ScenarioKind


def engine_client(
    target: Target, timeout_seconds: float, api: str = CHAT_COMPLETIONS
) -> EngineClient:
    """The client of one target. Raises `ExporterError` if its `ca_file` cannot be read.

    `api` is the setting `probe.api`.
    """
    try:
        return EngineClient(
            target.base_url,
            api_key=None if target.api_key is None else target.api_key.get_secret_value(),
            model=target.model,
            metrics_url=target.metrics_url,
            verify_tls=target.verify_tls,
            ca_file=None if target.ca_file is None else str(target.ca_file),
            timeout_seconds=timeout_seconds,
            additions=Additions(
                {name: value.get_secret_value() for name, value in target.headers.items()},
                target.extra_body,
            ),
            surface=SURFACES[api],
        )
    except OSError as error:
        raise ExporterError(
            f"target {target.name!r}: ca_file {target.ca_file} is not a PEM file: {error}"
        ) from error


def deadlines(probe: ProbeSettings) -> Deadlines:
    """The deadlines of a turn, from the settings."""
    return Deadlines(
        connect=probe.connect_timeout_seconds,
        first_token=probe.first_token_timeout_seconds,
        between_tokens=probe.between_tokens_timeout_seconds,
        whole=probe.turn_timeout_seconds,
    )


def session_plan(
    target: str,
    probe: ProbeSettings,
    scenarios: Sequence[ScenarioKind],
    adapters: Adapters = (),
) -> SessionPlan:
    """The plan of a target's sessions, from the settings and the scenarios that they name."""
    kind, *others = scenarios
    return SessionPlan(
        target,
        kind,
        probe.max_tokens,
        deadlines(probe),
        others=tuple(others),
        adapters=adapters,
    )


def new_salt() -> str:
    """A random cache salt that no request had before."""
    return secrets.token_hex(16)


class ProbeLoops:
    """Makes the loops that probe one target."""

    def __init__(
        self,
        target: str,
        settings: ProbeSettings,
        scenarios: Sequence[ScenarioKind],
        client: EngineClient,
        observe: Observe,
        *,
        clock: Clock,
        sink: ProbeSink,
        heartbeat: Callable[[str], LoopHeartbeat],
        rules: RulesFile,
        kv_events: KvEventFeed | None = None,
        pin_ranks: bool = False,
        adapters: Adapters = (),
        publish: Callable[[OwnShare], None] | None = None,
    ) -> None:
        """`heartbeat` makes one for a kind of loop. `publish` gets each change of the own share, by
        default the sink.
        """
        self._settings = settings
        self._adapters = adapters
        self._scenarios = scenarios
        self._rules = rules
        self._heartbeat = heartbeat
        self._probe_heartbeat = heartbeat("probe")
        self._clock = clock
        self._sink = sink
        self._sessions: Periodic | None = None
        self._last: LastShown | None = None
        admission = Admission(
            target,
            settings,
            observe,
            sink=sink,
            heartbeat=self._probe_heartbeat,
            rest=client.rest,
            own=lambda: requests.share,
        )
        requests = EngineRequests(
            client,
            observe,
            clock,
            from_counters=settings.cached_tokens_from_counters,
            pin_ranks=pin_ranks,
            publish=publish or sink.own_share_changed,
            yield_turn=admission.yield_turn,
            recall=partial(rules.recall, target),
            kv_events=kv_events,
        )
        self._context = ProbeContext(
            target, requests, admission, deadlines(settings), new_salt, sink
        )

    @property
    def due_at(self) -> float | None:
        """When the next session is due, in monotonic seconds; None before the loops run."""
        return None if self._sessions is None else self._sessions.due_at

    def continue_from(self, other: ProbeLoops) -> None:
        """Continue with the budget that loops of the same engine have spent, with the time of their
        last session or heartbeat, and with what the engine's answers have shown them.
        """
        self._last = other._last
        self._context.admission.continue_from(other._context.admission)
        self._context.requests.continue_from(other._context.requests)

    @cached_property
    def on_demand(self) -> OnDemandProbe:
        """Sessions that clients ask for, without cold controls."""
        context, settings = self._context, self._settings

        def runner_of(kind: ScenarioKind) -> SessionRunner:
            plan = session_plan(context.target, settings, [kind])
            return SessionRunner(plan, context.requests, new_salt)

        return OnDemandProbe(context, runner_of)

    def loops(self, sessions: SessionSink, delay: float) -> list[Periodic]:
        """Every loop of the target. The first session starts after `delay` seconds."""
        probe, context = self._settings, self._context
        runner = SessionRunner(
            session_plan(context.target, probe, self._scenarios, self._adapters),
            context.requests,
            new_salt,
            control=ColdControl(probe.control_ratio, random.random, new_salt),
        )
        interval = probe.interval_seconds
        self._last = last = LastShown(self._shown_at(delay))
        session_probe = SessionProbe(context, runner, sessions, interval, lambda: self._shown(last))

        async def session(started: Callable[[], None]) -> None:
            def begun() -> None:
                started()
                self._due(Due.SESSION, interval)

            await session_probe.round(begun)
            self._shown(last)
            await self._remember()

        self._sessions = self._loop(self._probe_heartbeat, session, interval, delay)
        self._due(Due.SESSION, delay)
        loops = [self._sessions]
        if probe.heartbeat_interval_seconds:
            loops.append(self._heartbeats(sessions, last))
        if probe.retention_gaps_seconds:
            heartbeat = self._heartbeat("retention")
            retention = RetentionProbe(context, probe.retention_gaps_seconds, heartbeat)
            # A session comes first, because users look for it first.
            every, first = probe.retention_interval_seconds, delay + interval
            loops.append(self._loop(heartbeat, retention.round, every, first))
        if probe.isolation_interval_seconds:
            heartbeat, isolation = self._heartbeat("isolation"), IsolationProbe(context)
            # Halfway between two sessions, so that neither waits for the other.
            every, first = probe.isolation_interval_seconds, delay + interval / 2
            loops.append(self._loop(heartbeat, isolation.round, every, first))
        return loops

    def _shown_at(self, delay: float) -> float:
        """The time from which the first heartbeat counts; the first session is due in `delay`.

        After a change of settings heartbeats go on as before. New targets get a heartbeat within
        one interval, also where sessions are rarer; those of a fleet are as spread as `delay` is.
        """
        now, every = self._clock.monotonic(), self._settings.heartbeat_interval_seconds
        if self._last is not None and now - self._last.at < every:
            return self._last.at
        return now + (delay % every - every if 0 < every <= delay else delay)

    def _heartbeats(self, sessions: SessionSink, last: LastShown) -> Periodic:
        every, loop = self._settings.heartbeat_interval_seconds, self._heartbeat("heartbeat")
        probe = HeartbeatProbe(self._context, sessions, every, last, loop)

        def due_in() -> float:
            return last.at + every - self._clock.monotonic()

        async def heartbeat(started: Callable[[], None]) -> None:
            await probe.round(started)
            self._due(Due.HEARTBEAT, due_in())

        self._due(Due.HEARTBEAT, due_in())
        return self._loop(loop, heartbeat, every, due_in())

    def _shown(self, last: LastShown) -> None:
        """A session began or ended, so the next heartbeat is due a whole interval later."""
        last.at = self._clock.monotonic()
        if self._settings.heartbeat_interval_seconds:
            self._due(Due.HEARTBEAT, self._settings.heartbeat_interval_seconds)

    def _due(self, what: Due, seconds: float) -> None:
        self._sink.due_at(what, self._clock.time() + seconds)

    async def _remember(self) -> None:
        """Keep what the sessions have shown of the engine's cache."""
        requests = self._context.requests
        start = requests.process[0] if requests.process is not None else None
        if start is not None:
            known = requests.knowledge.remembered(start)
            await self._rules.remember(self._context.target, known)

    def _loop(
        self, heartbeat: LoopHeartbeat, round_: Round, interval_seconds: float, delay: float
    ) -> Periodic:
        ratio = self._settings.jitter_ratio
        schedule = Schedule(delay, interval_seconds, lambda: random.uniform(1 - ratio, 1 + ratio))
        return Periodic(heartbeat, round_, schedule)
