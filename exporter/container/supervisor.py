"""The loop that looks after one container: look, decide, act once, publish, wait, look again.

What is decided stands in lifecycle.py. Here is only how it is carried out: every call to Docker
may fail, and a failure becomes part of the next look; an exception that nobody foresaw is logged,
counted, and ends the round and not the loop.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from exporter.container.container_counters import ContainerCounters
from exporter.container.decide import activity
from exporter.container.decide.accounting import action_failed
from exporter.container.decide.diagnosis import Traces, diagnose, listens
from exporter.container.decide.launch import is_another_model
from exporter.container.decide.lifecycle import UNDER_WAY, decide
from exporter.container.decide.observation import Action, Decision, Memory, Observation
from exporter.container.decide.policy import Context
from exporter.container.decide.records import (
    Cause,
    ContainerView,
    DockerError,
    DockerProblem,
    LifecycleState,
)
from exporter.container.observer import LIVE, ContainerObserver
from exporter.loops import Guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.container.decide.observation import Run
    from exporter.container.decide.records import (
        ContainerEvent,
        ContainerSnapshot,
        Diagnosis,
        PullProgress,
    )
    from exporter.container.door import DockerDoor, EngineDoor
    from exporter.container.sink import ContainerSink
    from exporter.container.supervisor_config import SupervisorConfig
    from exporter.loops import LoopHeartbeat
    from exporter.model.engine import EngineView
    from exporter.model.session import SessionResult

# What of Docker's events makes a look worth its while; the others are healthchecks and the like.
_TELLING = frozenset(
    {"create", "start", "die", "oom", "kill", "stop", "destroy", "pause", "unpause", "restart"}
)
_LISTEN_AGAIN_SECONDS = 5.0
# Seen by the supervisor itself, so that the container's own traces only tell of the stop.
_OWN_WORDS = frozenset(
    {
        Cause.LOADING_HANGS, Cause.START_TIMEOUT, Cause.HEALTH_FAILED, Cause.PROBES_FAILED,
        Cause.REMOVED, Cause.RESTARTED_ELSEWHERE, Cause.CONFIG_CHANGED, Cause.PAUSED,
        Cause.NAME_TAKEN, Cause.OTHER_EXPORTER, Cause.BUSY, Cause.RESTART_LIMIT, Cause.ADDRESS,
    }
)  # fmt: skip
# States in which a cause that only the supervisor sees is worth telling without a failure.
_AILING = frozenset({LifecycleState.UNHEALTHY, LifecycleState.ABSENT, LifecycleState.BUSY})
_RAISING = frozenset({Action.PULL, Action.CREATE, Action.START})


class Supervisor:
    """Looks after one container until it is cancelled; then `shutdown` does what the policy says.

    `jitter` gives a number from 0 to 1.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        door: DockerDoor,
        clock: Clock,
        *,
        engine: EngineDoor,
        jitter: Callable[[], float],
        sink: ContainerSink,
        heartbeat: LoopHeartbeat,
    ) -> None:
        self._config = config
        self._settings = config.container
        self._door = door
        self._clock = clock
        self._engine = engine
        self._jitter = jitter
        self._sink = sink
        self._heartbeat = heartbeat
        self._log = structlog.get_logger().bind(target=config.target.name)
        self._wake = asyncio.Event()
        self._memory = Memory()
        self._counters = ContainerCounters()
        self._observer = ContainerObserver(
            config, door, clock, self._log, engine=engine, on_load=self._counters.model_loaded
        )
        self._state: LifecycleState | None = None
        self._since_time = clock.time()
        self._pull: PullProgress | None = None
        self._not_before: float | None = None
        self._while_ready: Diagnosis | None = None  # holds for a run that is well otherwise

    def continue_from(self, other: Supervisor) -> None:
        """Go on with what another supervisor counted of the same container."""
        self._counters.continue_from(other._counters)

    def session_finished(self, result: SessionResult) -> None:
        """Take a session of the probe into account."""
        observer = self._observer
        observer.activity = activity.session_ended(
            observer.activity, result, self._clock.monotonic()
        )
        if result.failure is not None:
            self._wake.set()

    def engine_read(self, view: EngineView) -> None:
        """Take a reading of the engine's own /metrics into account."""
        self._observer.activity = activity.page_read(self._observer.activity, view)

    async def run(self) -> None:
        """Look, decide and act until cancelled."""
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(self._listen(), name=f"events:{self._config.target.name}")
            try:
                while True:
                    acted = False
                    with self._heartbeat.guard():
                        acted = await self.round()
                    if not acted:
                        await self._rest()
            finally:
                listener.cancel()
                await self._observer.close()

    async def shutdown(self) -> None:
        """After the loop: leave the container running, stop or remove it, as the settings say."""
        on_shutdown = self._settings.on_shutdown
        if on_shutdown == "leave" or not self._config.policy.managed or self._config.held():
            return
        try:
            there = await self._observer.find()
            if there is None or not self._observer.is_ours(there):
                return
            if there.status in LIVE:
                self._log.info("container.stopping", container=there.name)
                await self._door.stop(there.id, self._settings.stop_grace_seconds)
            if on_shutdown == "remove":
                self._log.info("container.removing", container=there.name)
                await self._door.remove(there.id)
        except DockerError as error:
            self._log.warning("container.stop_failed", problem=error.problem, detail=error.detail)

    async def round(self) -> bool:
        """One look, one decision, one action at most; True when something was done."""
        seen = await self._observer.look()
        before = self._memory
        decision = decide(before, seen, self._context())
        self._memory = decision.memory
        self._not_before = decision.not_before
        await self._account(decision, before, seen)
        self._enter(decision.state, decision)
        if decision.became_ready:
            await self._check_model()
        if decision.action is Action.NOTHING:
            return False
        await self._act(decision)
        return True

    # Drawing conclusions

    async def _account(self, decision: Decision, before: Memory, seen: Observation) -> None:
        container = seen.container if seen.ours else None
        if decision.failed is not None:
            diagnosis = await self._diagnose(decision.failed.cause, container)
            self._log.warning(
                "container.failed",
                cause=diagnosis.cause,
                summary=diagnosis.summary,
                advice=diagnosis.advice,
                evidence=diagnosis.evidence,
                in_start=decision.failed.in_start,
            )
            self._counters.failed(
                diagnosis,
                in_start=decision.failed.in_start,
                oom_killed=diagnosis.cause is Cause.OOM_KILLED,
            )
        elif decision.state in _AILING and decision.cause in _OWN_WORDS:
            await self._ails(decision.cause, container)
        run, last = decision.memory.run, before.run
        if run is not None and last is not None and _failed_looks(run) > _failed_looks(last):
            self._counters.health_failures += 1
        if decision.started is not None:
            self._while_ready = None
            self._counters.started(decision.started, before.cause)
            self._log.info(
                "container.started",
                adopted=decision.started.adopted,
                by_us=decision.started.by_us,
                container=container.name if container else None,
            )
        if decision.became_ready:
            observer = self._observer
            observer.activity = activity.became_ready(observer.activity, self._clock.monotonic())
            at_first_look = decision.started is not None and decision.started.adopted
            self._counters.became_ready(None if at_first_look else self._observer.age(container))

    async def _ails(self, cause: Cause, container: ContainerSnapshot | None) -> None:
        """Say why it is not well, where nothing is done about it and so nothing is counted."""
        known = self._counters.diagnosis
        if known is None or known.cause is not cause:
            self._counters.diagnosis = diagnosis = await self._diagnose(cause, container)
            self._log.warning(
                "container.unhealthy",
                cause=cause,
                summary=diagnosis.summary,
                advice=diagnosis.advice,
                evidence=diagnosis.evidence,
            )

    async def _check_model(self) -> None:
        """Say so where it serves another model than it was told to load."""
        asked = self._config.model
        loaded = None if asked is None else await self._engine.loaded()
        if asked is None or loaded is None or not is_another_model(asked, loaded):
            return
        words = f"{loaded} was loaded, not {asked}"
        diagnosis = diagnose(Traces(seen=Cause.WRONG_MODEL, seen_text=words))
        self._counters.diagnosis = self._while_ready = diagnosis
        self._log.warning(
            "container.wrong_model", asked=asked, loaded=loaded, advice=diagnosis.advice
        )
        self._tell()

    async def _diagnose(self, cause: Cause, container: ContainerSnapshot | None) -> Diagnosis:
        return diagnose(
            Traces(
                exit_code=container.exit_code if container else None,
                oom_killed=container.oom_killed if container else False,
                docker_text=container.error if container else "",
                log=await self._observer.last_lines(container),
                seen=cause if cause in _OWN_WORDS else None,
                seen_text=self._words_for(cause),
                listens=listens(container) if container else "",
                command=self._config.launch.command if self._config.launch else (),
            )
        )

    def _words_for(self, cause: Cause) -> str:
        if cause in {Cause.ADDRESS, Cause.BUSY, Cause.RESTART_LIMIT}:
            return self._observer.health_words
        return self._observer.owner if cause is Cause.OTHER_EXPORTER else ""

    # Acting

    async def _act(self, decision: Decision) -> None:
        self._enter(UNDER_WAY[decision.action], decision)
        self._log.info("container.action", action=decision.action, cause=decision.cause)
        try:
            await self._do(decision)
        except DockerError as error:
            await self._refused(decision.action, error)
        finally:
            self._pull = None

    async def _do(self, decision: Decision) -> None:
        launch, container_id = self._config.launch, decision.container_id or ""
        match decision.action:
            case Action.PULL if launch is not None:
                await self._door.pull(launch.image, self._pulled)
            case Action.CREATE if launch is not None:
                await self._door.create(
                    await self._config.fitted(launch, self._door), self._config.secrets
                )
            case Action.START:
                await self._door.start(container_id)
            case Action.STOP:
                await self._door.stop(container_id, self._settings.stop_grace_seconds)
            case Action.REMOVE:
                await self._door.remove(container_id)
            case Action.UNPAUSE:
                await self._door.unpause(container_id)

    async def _refused(self, action: Action, error: DockerError) -> None:
        self._memory, counted = action_failed(self._memory, error.problem, self._context())
        self._not_before = self._memory.not_before
        diagnosis = diagnose(
            Traces(
                docker=error.problem,
                docker_text=error.detail,
                command=self._config.launch.command if self._config.launch else (),
            )
        )
        self._log.warning(
            "container.action_refused",
            action=action,
            cause=diagnosis.cause,
            summary=diagnosis.summary,
            advice=diagnosis.advice,
            evidence=diagnosis.evidence,
        )
        if counted:
            self._counters.failed(diagnosis, in_start=action in _RAISING)
        if error.problem is DockerProblem.UNREACHABLE:
            self._observer.docker_failed(error)

    def _pulled(self, progress: PullProgress) -> None:
        self._pull = progress
        self._tell()

    # Publishing

    def _enter(self, state: LifecycleState, decision: Decision) -> None:
        if state is not self._state:
            self._log.info("container.state", state=state, before=self._state, cause=decision.cause)
            self._state = state
            self._since_time = self._clock.time()
            if state is LifecycleState.READY:
                self._counters.well()
                self._counters.diagnosis = self._while_ready
        self._tell()

    def _tell(self) -> None:
        counters, wait = self._counters, self._not_before
        now = self._clock.monotonic()
        self._sink.container_changed(
            ContainerView(
                target=self._config.target.name,
                mode=self._config.target.mode,
                state=self._state or LifecycleState.UNKNOWN,
                since_time=self._since_time,
                snapshot=None if self._observer.docker is not None else self._observer.snapshot,
                diagnosis=counters.diagnosis,
                docker_problem=self._observer.docker.problem
                if self._observer.docker is not None
                else None,
                next_attempt_time=self._clock.time() + wait - now if wait is not None else None,
                pull=self._pull,
                config_drift=self._observer.drifted,
                startup_seconds=counters.startup_seconds,
                restarts=dict(counters.restarts),
                start_failures=dict(counters.start_failures),
                oom_kills=counters.oom_kills,
                model_loads=counters.model_loads,
                health_failures=counters.health_failures,
            )
        )
        self._heartbeat.ran()

    # Waiting

    def _context(self) -> Context:
        return Context(self._clock.monotonic(), self._config.policy, self._jitter())

    async def _rest(self) -> None:
        """Until the next look is due, or something happens."""
        seconds = self._settings.health_interval_seconds
        if self._not_before is not None:
            seconds = min(seconds, max(0.05, self._not_before - self._clock.monotonic()))
        sleep = asyncio.create_task(self._clock.sleep(seconds), name="rest")
        wake = asyncio.create_task(self._wake.wait(), name="wake")
        try:
            await asyncio.wait({sleep, wake}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleep, wake):
                task.cancel()
            await asyncio.gather(sleep, wake, return_exceptions=True)
        self._wake.clear()

    async def _listen(self) -> None:
        """Wake the loop when Docker tells of something; without events it looks now and then."""
        while True:
            with Guarded("docker.events_failed", self._heartbeat.failed, self._log):
                await self._hear()
            await self._clock.sleep(_LISTEN_AGAIN_SECONDS)

    async def _hear(self) -> None:
        try:
            async with aclosing(self._door.events()) as events:  # type: ignore[type-var]
                async for event in events:
                    if event.action in _TELLING and self._concerns(event):
                        self._wake.set()
        except DockerError as error:
            self._log.debug("docker.events_cut", problem=error.problem)
            self._wake.set()  # Docker may be gone: look now

    def _concerns(self, event: ContainerEvent) -> bool:
        known = self._observer.snapshot.id if self._observer.snapshot is not None else None
        named = event.name == self._config.target.container_name
        return event.container_id == known or named or known is None


def _failed_looks(run: Run) -> int:
    return run.health_failures + run.slow_looks
