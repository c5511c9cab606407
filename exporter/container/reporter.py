"""What the supervisor's decisions mean to people: diagnoses, counts, log lines, the view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide import activity
from exporter.container.decide.diagnosis import DiagnosisInput, diagnose, listens
from exporter.container.decide.launch import is_another_model
from exporter.container.decide.observation import Action
from exporter.container.decide.records import Cause, ContainerView, LifecycleState

if TYPE_CHECKING:
    from exporter.clock import Clock
    from exporter.container.container_counters import ContainerCounters
    from exporter.container.decide.observation import Decision, Memory, Observation, Run
    from exporter.container.decide.records import (
        ContainerSnapshot,
        Diagnosis,
        DockerError,
        PullProgress,
    )
    from exporter.container.observer import ContainerObserver
    from exporter.container.sink import ContainerSink
    from exporter.container.supervisor_config import SupervisorConfig

# Causes that the supervisor observes itself. Exit code and log then only show its own stop.
_OBSERVED_CAUSES = frozenset(
    {
        Cause.LOADING_HANGS, Cause.START_TIMEOUT, Cause.HEALTH_FAILED, Cause.PROBES_FAILED,
        Cause.REMOVED, Cause.RESTARTED_ELSEWHERE, Cause.CONFIG_CHANGED, Cause.PAUSED,
        Cause.NAME_TAKEN, Cause.OTHER_EXPORTER, Cause.BUSY, Cause.RESTART_LIMIT, Cause.ADDRESS,
    }
)  # fmt: skip
# States in which such a cause is reported although no failure was counted.
_REPORTED_STATES = frozenset({LifecycleState.UNHEALTHY, LifecycleState.ABSENT, LifecycleState.BUSY})
_START_ACTIONS = frozenset({Action.PULL, Action.CREATE, Action.START})


class ContainerReporter:
    """Counts, logs and publishes what happens to one container.

    `pull` and `not_before` (monotonic seconds) are kept up to date by the supervisor.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        clock: Clock,
        *,
        observer: ContainerObserver,
        counters: ContainerCounters,
        sink: ContainerSink,
    ) -> None:
        self._config = config
        self._command = config.launch.command if config.launch else ()
        self._clock = clock
        self._observer = observer
        self._counters = counters
        self._sink = sink
        self._log = observer.log
        self._state: LifecycleState | None = None
        self._since_time = clock.time()
        self._ready_diagnosis: Diagnosis | None = None  # applies while the container is ready
        self.pull: PullProgress | None = None
        self.not_before: float | None = None

    async def decided(self, decision: Decision, before: Memory, seen: Observation) -> None:
        """Count and log what a decision found. `before` is the memory before it."""
        container = seen.container if seen.ours else None
        if decision.failed is not None:
            in_start = decision.failed.in_start
            diagnosis = await self._diagnose(decision.failed.cause, container)
            self._log_diagnosis("container.failed", diagnosis, in_start=in_start)
            oom_killed = diagnosis.cause is Cause.OOM_KILLED
            self._counters.failed(diagnosis, in_start=in_start, oom_killed=oom_killed)
        elif decision.state in _REPORTED_STATES and decision.cause in _OBSERVED_CAUSES:
            await self._report_unhealthy(decision.cause, container)
        run, last = decision.memory.run, before.run
        if run is not None and last is not None and _failed_checks(run) > _failed_checks(last):
            self._counters.health_failures += 1
        if decision.started is not None:
            self._ready_diagnosis = None
            self._counters.started(decision.started, before.cause)
            self._log.info(
                "container.started",
                adopted=decision.started.adopted,
                by_us=decision.started.by_us,
                container=container.name if container else None,
            )
        if decision.became_ready:
            observer, now = self._observer, self._clock.monotonic()
            observer.activity = activity.without_failures(observer.activity, now)
            at_first_sight = decision.started is not None and decision.started.adopted
            self._counters.became_ready(None if at_first_sight else observer.age(container))
        self.entered(decision.state, decision.cause)

    def entered(self, state: LifecycleState, cause: Cause | None) -> None:
        """Publish a state, and log it where it is new."""
        if state is not self._state:
            self._log.info("container.state", state=state, before=self._state, cause=cause)
            self._state = state
            self._since_time = self._clock.time()
            if state is LifecycleState.READY:
                self._counters.clear_diagnosis()
                self._counters.diagnosis = self._ready_diagnosis
        self.publish()

    def refused(self, action: Action, error: DockerError, *, counted: bool) -> None:
        """Log an action that Docker refused, and count it where it is a failure."""
        diagnosis = diagnose(
            DiagnosisInput(docker=error.problem, docker_text=error.detail, command=self._command)
        )
        self._log_diagnosis("container.action_refused", diagnosis, action=action)
        if counted:
            self._counters.failed(diagnosis, in_start=action in _START_ACTIONS)

    def model_loaded(self, loaded: str | None) -> None:
        """Report an engine that loaded another model than the settings say."""
        asked = self._config.model
        if asked is None or loaded is None or not is_another_model(asked, loaded):
            return
        text = f"{loaded} was loaded, not {asked}"
        diagnosis = diagnose(DiagnosisInput(observed=Cause.WRONG_MODEL, observed_text=text))
        self._counters.diagnosis = self._ready_diagnosis = diagnosis
        self._log.warning(
            "container.wrong_model", asked=asked, loaded=loaded, advice=diagnosis.advice
        )
        self.publish()

    def publish(self) -> None:
        counters, docker = self._counters, self._observer.docker
        wait = None if self.not_before is None else self.not_before - self._clock.monotonic()
        self._sink.container_changed(
            ContainerView(
                target=self._config.target.name,
                mode=self._config.target.mode,
                state=self._state or LifecycleState.UNKNOWN,
                since_time=self._since_time,
                snapshot=None if docker is not None else self._observer.snapshot,
                diagnosis=counters.diagnosis,
                docker_problem=docker.problem if docker is not None else None,
                next_attempt_time=None if wait is None else self._clock.time() + wait,
                pull=self.pull,
                config_drift=self._observer.drifted,
                startup_seconds=counters.startup_seconds,
                restarts=dict(counters.restarts),
                start_failures=dict(counters.start_failures),
                oom_kills=counters.oom_kills,
                model_loads=counters.model_loads,
                health_failures=counters.health_failures,
            )
        )

    async def _report_unhealthy(self, cause: Cause, container: ContainerSnapshot | None) -> None:
        """Report, once, why the container is unhealthy where nothing is counted."""
        known = self._counters.diagnosis
        if known is None or known.cause is not cause:
            self._counters.diagnosis = diagnosis = await self._diagnose(cause, container)
            self._log_diagnosis("container.unhealthy", diagnosis)

    async def _diagnose(self, cause: Cause, container: ContainerSnapshot | None) -> Diagnosis:
        return diagnose(
            DiagnosisInput(
                exit_code=container.exit_code if container else None,
                oom_killed=container.oom_killed if container else False,
                docker_text=container.error if container else "",
                log=await self._observer.last_lines(container),
                observed=cause if cause in _OBSERVED_CAUSES else None,
                observed_text=self._evidence_of(cause),
                listens=listens(container) if container else "",
                command=self._command,
            )
        )

    def _evidence_of(self, cause: Cause) -> str:
        if cause in {Cause.ADDRESS, Cause.BUSY, Cause.RESTART_LIMIT}:
            return self._observer.health_detail
        return self._observer.owner if cause is Cause.OTHER_EXPORTER else ""

    def _log_diagnosis(self, event: str, diagnosis: Diagnosis, **more: object) -> None:
        self._log.warning(
            event,
            cause=diagnosis.cause,
            summary=diagnosis.summary,
            advice=diagnosis.advice,
            evidence=diagnosis.evidence,
            **more,
        )


def _failed_checks(run: Run) -> int:
    return run.health_failures + run.slow_checks
