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
from exporter.probe.rounds import Schedule
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.clock import Clock
    from exporter.config import ProbeSettings, Target
    from exporter.loops import Loop, LoopHeartbeat
    from exporter.model.probe import PauseReason
    from exporter.probe.replicas import Observe
    from exporter.probe.sink import ProbeSink, SessionSink
    from exporter.scenario.model import ScenarioKind


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
        sink: ProbeSink,
        heartbeat: Callable[[str], LoopHeartbeat],
    ) -> None:
        """`heartbeat` makes one for a kind of loop."""
        self._target = target
        self._settings = settings
        self._scenarios = scenarios
        self._client = client
        self._observe = observe
        self._delay = 0.0
        self._prober: Prober | None = None
        self._clock = clock
        self._sink = sink
        self._heartbeat = heartbeat
        self._probe_heartbeat = heartbeat("probe")
        policy = LoadPolicy(
            settings.tokens_per_hour,
            settings.max_waiting_requests,
            settings.max_kv_cache_usage_ratio,
        )
        self._admission = Admission(
            target, policy, observe, clock, self._admission_checked, rests=client.rests
        )
        self._requests = EngineRequests(
            client,
            observe,
            clock,
            from_counters=settings.cached_tokens_from_counters,
            publish=sink.own_share_changed,
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

    def loops(self, sessions: SessionSink, delay: float) -> list[tuple[LoopHeartbeat, Loop]]:
        """Each loop with its heartbeat. The first session starts after `delay` seconds."""
        self._delay = delay
        loops = [self._sessions(sessions)]
        if self._settings.retention_gaps_seconds:
            loops.append(self._retention())
        if self._settings.isolation_interval_seconds:
            loops.append(self._isolation())
        return loops

    def _sessions(self, sink: SessionSink) -> tuple[LoopHeartbeat, Loop]:
        probe, heartbeat = self._settings, self._probe_heartbeat
        runner = SessionRunner(
            session_plan(self._target, probe, self._scenarios),
            self._requests,
            new_salt,
            control=ColdControl(probe.control_ratio, random.random, new_salt),
        )
        self._prober = Prober(
            self._target,
            runner,
            self._admission,
            self._clock,
            schedule=self._every(probe.interval_seconds, self._delay),
            sinks=SessionSinks(sink.session_finished, self._sink.tokens_consumed),
            heartbeat=heartbeat,
        )
        return heartbeat, self._prober.run

    def _retention(self) -> tuple[LoopHeartbeat, Loop]:
        probe, heartbeat = self._settings, self._heartbeat("retention")
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
            sinks=RetentionSinks(self._sink.retention_measured, self._sink.tokens_consumed),
            heartbeat=heartbeat,
            requests=self._requests,
        )
        return heartbeat, retention.run

    def _isolation(self) -> tuple[LoopHeartbeat, Loop]:
        probe, heartbeat = self._settings, self._heartbeat("isolation")
        # Half way between two sessions, so that neither waits for the other.
        schedule = self._every(
            probe.isolation_interval_seconds, self._delay + probe.interval_seconds / 2
        )
        isolation = IsolationLoop(
            IsolationPlan(self._target, schedule, deadlines(probe)),
            self._client,
            self._admission,
            observe=self._observe,
            clock=self._clock,
            new_salt=new_salt,
            sinks=IsolationSinks(self._sink.isolation_tested, self._sink.tokens_consumed),
            heartbeat=heartbeat,
            requests=self._requests,
        )
        return heartbeat, isolation.run

    def _every(self, interval_seconds: float, delay: float) -> Schedule:
        ratio = self._settings.jitter_ratio
        return Schedule(delay, interval_seconds, lambda: random.uniform(1 - ratio, 1 + ratio))

    def _admission_checked(self, paused: PauseReason | None) -> None:
        until = None if paused is None else self._clock.time() + self._admission.wait_seconds
        self._sink.admission_checked(paused, until)
        self._probe_heartbeat.ran()
