"""From a target's settings to the loops that ask something of its engine; they share one gate."""

from __future__ import annotations

import random
import secrets
from typing import TYPE_CHECKING

from exporter.analysis.load import LoadPolicy
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.errors import ExporterError
from exporter.probe.admission import Admission
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.isolation_loop import IsolationLoop, IsolationPlan, IsolationSinks
from exporter.probe.prober import Prober, SessionSinks
from exporter.probe.retention import RetentionLoop, RetentionPlan, RetentionSinks
from exporter.probe.rounds import LoopHeartbeat, Schedule
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.runner import SessionPlan, SessionRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from exporter.clock import Clock
    from exporter.config import ProbeSettings, Target
    from exporter.metrics.sink import Metrics
    from exporter.model.probe import PauseReason
    from exporter.model.session import SessionResult
    from exporter.probe.replicas import Observe
    from exporter.scenario.model import ScenarioKind

Loop = tuple[str, "Callable[[], Coroutine[None, None, None]]"]


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


def deadlines(probe: ProbeSettings) -> Deadlines:
    """The deadlines of a turn, from the settings."""
    return Deadlines(
        connect=probe.connect_timeout_seconds,
        first_token=probe.first_token_timeout_seconds,
        between_tokens=probe.between_tokens_timeout_seconds,
        whole=probe.turn_timeout_seconds,
    )


def session_plan(
    target: str, probe: ProbeSettings, scenarios: Sequence[ScenarioKind]
) -> SessionPlan:
    """What all sessions of a target have in common: the settings, and the scenarios they name."""
    kind, *others = scenarios
    return SessionPlan(
        target,
        kind,
        probe.max_tokens,
        deadlines(probe),
        others=tuple(others),
        cached_tokens_from_counters=probe.cached_tokens_from_counters,
    )


def new_salt() -> str:
    """A cache salt that no request ever had."""
    return secrets.token_hex(16)


class Probing:
    """Makes the loops of one target."""

    def __init__(
        self,
        target: str,
        settings: ProbeSettings,
        scenarios: Sequence[ScenarioKind],
        client: EngineClient,
        observe: Observe,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._target = target
        self._settings = settings
        self._scenarios = scenarios
        self._client = client
        self._observe = observe
        self._delay = 0.0
        self._prober: Prober | None = None
        self._clock = clock
        self._metrics = metrics
        policy = LoadPolicy(
            settings.tokens_per_hour,
            settings.max_waiting_requests,
            settings.max_kv_cache_usage_ratio,
        )
        self._admission = Admission(
            target, policy, observe, clock, self._gate_looked, rests=client.rests
        )
        self._requests = EngineRequests(
            client,
            observe,
            clock,
            from_counters=settings.cached_tokens_from_counters,
            publish=lambda change: metrics.engine_asked(target, change),
            step_aside=self._admission.step_aside,
        )

    @property
    def due_at(self) -> float | None:
        """When the next session is due, in monotonic seconds; None before the loops run."""
        return None if self._prober is None else self._prober.due_at

    def take_over(self, other: Probing) -> None:
        """Go on with the budget of the loops that another one made for the same engine, and with
        what its answers have shown.
        """
        self._admission.take_over(other._admission)
        self._requests.take_over(other._requests)

    def loops(self, publish: Callable[[SessionResult], None], delay: float) -> list[Loop]:
        """Each loop with its name. The first session starts after `delay` seconds, and `publish`
        is told of every session.
        """
        self._delay = delay
        loops = [self._sessions(publish)]
        if self._settings.retention_gaps_seconds:
            loops.append(self._retention())
        if self._settings.isolation_interval_seconds:
            loops.append(self._salts())
        return loops

    def _sessions(self, publish: Callable[[SessionResult], None]) -> Loop:
        probe, name = self._settings, f"probe:{self._target}"
        runner = SessionRunner(
            session_plan(self._target, probe, self._scenarios),
            self._client,
            self._observe,
            self._clock,
            new_salt,
            control=ColdControl(probe.control_ratio, random.random, new_salt),
            requests=self._requests,
        )
        self._prober = Prober(
            self._target,
            runner,
            self._admission,
            self._clock,
            schedule=self._every(probe.interval_seconds, self._delay),
            sinks=SessionSinks(publish, self._consumed),
            heartbeat=self._heartbeat(name),
        )
        return name, self._prober.run

    def _retention(self) -> Loop:
        probe, name = self._settings, f"retention:{self._target}"
        # A session comes first: it is what people look for.
        schedule = self._every(
            probe.retention_interval_seconds, self._delay + probe.interval_seconds
        )
        retention = RetentionLoop(
            RetentionPlan(self._target, probe.retention_gaps_seconds, schedule, deadlines(probe)),
            self._client,
            self._admission,
            observe=self._observe,
            clock=self._clock,
            new_salt=new_salt,
            sinks=RetentionSinks(self._metrics.retention_read, self._consumed),
            heartbeat=self._heartbeat(name),
            requests=self._requests,
        )
        return name, retention.run

    def _salts(self) -> Loop:
        probe, name = self._settings, f"isolation:{self._target}"
        # Half way between two sessions, so that neither waits for the other.
        schedule = self._every(
            probe.isolation_interval_seconds, self._delay + probe.interval_seconds / 2
        )
        watch = IsolationLoop(
            IsolationPlan(self._target, schedule, deadlines(probe)),
            self._client,
            self._admission,
            observe=self._observe,
            clock=self._clock,
            new_salt=new_salt,
            sinks=IsolationSinks(self._metrics.salts_tried, self._consumed),
            heartbeat=self._heartbeat(name),
            requests=self._requests,
        )
        return name, watch.run

    def _every(self, interval_seconds: float, delay: float) -> Schedule:
        ratio = self._settings.jitter_ratio
        return Schedule(delay, interval_seconds, lambda: random.uniform(1 - ratio, 1 + ratio))

    def _heartbeat(self, loop: str) -> LoopHeartbeat:
        return LoopHeartbeat(
            failed=lambda: self._metrics.loop_failed(loop),
            ran=lambda: self._metrics.loop_ran(loop, self._clock.time()),
        )

    def _gate_looked(self, paused: PauseReason | None) -> None:
        now = self._clock.time()
        until = None if paused is None else now + self._admission.wait_seconds
        self._metrics.gate_looked(self._target, paused, until)
        self._metrics.loop_ran(f"probe:{self._target}", now)

    def _consumed(self, tokens: int) -> None:
        self._metrics.consumed(self._target, tokens)
