"""Observes one container: what Docker, /health and its log show, as one record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide import activity
from exporter.container.decide.accounting import LIVE
from exporter.container.decide.activity import Activity
from exporter.container.decide.launch import has_drifted, is_owned
from exporter.container.decide.log.endings import plain
from exporter.container.decide.log.masking import mask
from exporter.container.decide.observation import (
    Health,
    HealthAnswer,
    Observation,
    failed_health,
    run_key,
)
from exporter.container.decide.policy import health_deadline
from exporter.container.decide.records import (
    INSTANCE_LABEL,
    MANAGED_LABEL,
    ContainerStatus,
    DockerError,
)
from exporter.container.log_following import KEPT_LINES, RunFollower
from exporter.errors import EngineUnavailableError
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable

    import structlog

    from exporter.clock import Clock
    from exporter.container.decide.records import ContainerSnapshot, DockerProblem
    from exporter.container.door import DockerDoor, EngineDoor
    from exporter.container.supervisor_config import SupervisorConfig

_REST_OF_LOG_SECONDS = 2.0
# Docker records the start of a container after its process started: the first log lines, or all
# lines of a process that fails at once, can be older than that. Starts are further apart.
_START_LAG_SECONDS = 1.0


class ContainerObserver:
    """Observes on request, and follows the log of the current run.

    `snapshot`, `drifted` and `docker` (the error if Docker does not answer) are of the last
    observation. Others update `activity`; a new run resets it. `health_detail` says why the last
    check of /health failed. `owner` names the other exporter that has the container.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        door: DockerDoor,
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
        *,
        engine: EngineDoor,
        on_load: Callable[[], None],
    ) -> None:
        self.snapshot: ContainerSnapshot | None = None
        self.drifted: bool | None = None
        self.docker: DockerError | None = None
        self._logged_problems: set[DockerProblem] = set()
        self.activity = Activity()
        self._config = config
        self._settings = config.container
        self._door = door
        self._clock = clock
        self.log = log
        self._engine = engine
        self._on_load = on_load
        self._created_time = clock.time()
        self._secrets = tuple(config.secrets.values())
        self._follower: RunFollower | None = None
        self._health_failed_at: float | None = None
        self._failed_checks = 0
        self._slowest_health = 0.0
        self._suspended = False
        self.health_detail = ""
        self.owner = ""

    async def observe(self) -> Observation:
        """One observation. If Docker fails, that is the observation."""
        held = self._config.held()
        try:
            container = await self.find()
            drifted = self._drift(container)
            image_present = await self._image_present(container, drifted)
        except DockerError as error:
            self.docker_failed(error)
            return Observation(docker=error.problem, held=held)
        self._docker_answers()
        # Of a stranger with the name nothing is read, shown or followed.
        own = None if self._is_stranger(container) else container
        self.snapshot, self.drifted = own, drifted
        self.owner = self._owner(container)
        await self._follow(own)
        answer = await self._health(own)
        suspended = await self._is_suspended(answer)
        return Observation(
            container=container,
            ours=own is container,
            other_exporter=bool(self.owner),
            image_present=image_present,
            drifted=drifted,
            health=answer.health,
            activity=self.activity,
            suspended=suspended,
            running_seconds=self.age(own),
            log=self._follower.progress if self._follower is not None else None,
            held=held,
        )

    async def find(self) -> ContainerSnapshot | None:
        """The container, or a stranger with its name. Raises `DockerError`."""
        config = self._config
        if config.launch is not None:
            found = await self._door.find(f"{MANAGED_LABEL}={config.target.name}")
            own = [each for each in found if self.is_ours(each)]
            return own[0] if own else await self._door.inspect(config.launch.name)
        if config.container.label is not None:
            found = await self._door.find(config.container.label)
            return found[0] if found else None
        return await self._door.inspect(config.target.container_name or config.target.name)

    def is_ours(self, container: ContainerSnapshot) -> bool:
        return is_owned(container, self._config.target.name, self._config.instance)

    def age(self, container: ContainerSnapshot | None) -> float | None:
        """Seconds since Docker started its run, by this machine's clock."""
        if container is None or container.started_time is None:
            return None
        return max(0.0, self._clock.time() - container.started_time)

    async def last_lines(self, container: ContainerSnapshot | None) -> list[str]:
        """The end of the last run's log, masked: the followed lines, else Docker's tail.

        A run shorter than the time between two observations was not followed.
        """
        follower = self._follower
        if follower is not None and (container is None or follower.key == run_key(container)):
            if container is None or container.status not in LIVE:
                await follower.ended(_REST_OF_LOG_SECONDS)
            if follower.lines:
                return list(follower.lines)
        begins = _log_begins(container) if container is not None else None
        if container is None or begins is None:
            return []
        try:
            tail = await self._door.tail(container.id, KEPT_LINES)
        except DockerError:
            return []
        return [mask(plain(line.text), self._secrets) for line in tail if line.time >= begins]

    def docker_failed(self, error: DockerError) -> None:
        """Remember that Docker does not answer. Logs each kind of failure once until it does:
        a Docker that stops or starts fails in several ways.
        """
        if error.problem not in self._logged_problems:
            self._logged_problems.add(error.problem)
            self.log.warning("docker.failed", problem=error.problem, detail=error.detail)
        self.docker = error

    async def close(self) -> None:
        """Stop following the log."""
        if self._follower is not None:
            await self._follower.close()
            self._follower = None

    def _is_stranger(self, container: ContainerSnapshot | None) -> bool:
        managed = self._config.launch is not None
        return managed and container is not None and not self.is_ours(container)

    def _owner(self, container: ContainerSnapshot | None) -> str:
        """The other exporter that has the container, in words; empty if there is none."""
        if container is None or not self._is_stranger(container):
            return ""
        if not is_owned(container, self._config.target.name, None):
            return ""
        instance = container.labels.get(INSTANCE_LABEL)
        return f"{container.name} belongs to the exporter with instance = {instance!r}"

    def _docker_answers(self) -> None:
        if self.docker is not None:
            self.log.info("docker.recovered", after=self.docker.problem)
        self.docker = None
        self._logged_problems.clear()

    async def _image_present(
        self, container: ContainerSnapshot | None, drifted: bool | None
    ) -> bool | None:
        launch = self._config.launch
        if launch is None or (container is not None and not drifted):
            return None  # not needed: no container will be created
        return await self._door.has_image(launch.image)

    async def _health(self, container: ContainerSnapshot | None) -> HealthAnswer:
        if container is None or container.status is not ContainerStatus.RUNNING:
            return HealthAnswer(Health.NOT_ASKED)
        since = self._health_failed_at
        if (
            since is not None
            and self._clock.monotonic() - since < self._settings.health_interval_seconds / 2
        ):
            # Docker's events cause observations in quick succession. They must not use up the
            # failures that checks at the interval are allowed.
            return HealthAnswer(Health.NOT_ASKED)
        asked = self._clock.monotonic()
        deadline = health_deadline(
            self._settings.health_timeout_seconds, self._slowest_health, self._failed_checks
        )
        answer = await check_health(self._engine, deadline)
        answered = self._clock.monotonic()
        self.health_detail = answer.detail
        if answer.health is Health.OK:
            self._slowest_health = max(self._slowest_health, answered - asked)
            self._health_failed_at, self._failed_checks = None, 0
        else:
            self._health_failed_at, self._failed_checks = answered, self._failed_checks + 1
        return answer

    async def _is_suspended(self, answer: HealthAnswer) -> bool:
        """Whether the engine sleeps, is paused or is being scaled: then no failure counts.

        The engine is asked only after a failed session, because each question is a request.
        """
        known = self.activity
        suspended = answer.suspended or known.asleep
        if not suspended and (known.failed or known.slow) and answer.health is Health.OK:
            suspended = await self._engine.rest() is not None
        if suspended:
            self.activity = activity.without_failures(self.activity, self._clock.monotonic())
        if suspended is not self._suspended:
            self._suspended = suspended
            self.log.info("engine.suspended" if suspended else "engine.resumed")
        return suspended

    def _drift(self, container: ContainerSnapshot | None) -> bool | None:
        launch = self._config.launch
        if container is None or launch is None or self._is_stranger(container):
            return None
        return has_drifted(container, launch)

    async def _follow(self, container: ContainerSnapshot | None) -> None:
        if container is None or container.status not in LIVE:
            return  # the diagnosis needs the last lines of the run that ended
        key = run_key(container)
        if self._follower is not None and self._follower.key == key:
            return
        await self.close()
        self.activity = activity.new_run(self.activity)
        self._health_failed_at, self._failed_checks = None, 0
        # An old server's log is long, and its start does not matter any more.
        old = (self.age(container) or 0.0) > self._settings.start_deadline_seconds
        self._follower = RunFollower(
            self._door,
            key,
            self._clock,
            self.log,
            read_from=self._clock.time() if old else _log_begins(container),
            counted_from=self._created_time,
            on_load=self._on_load,
            secrets=self._secrets,
            up=old,
        )


async def check_health(engine: EngineDoor, seconds: float) -> HealthAnswer:
    """GET /health with this timeout."""
    try:
        await engine.healthy(seconds)
    except EngineUnavailableError as error:
        return failed_health(Failure(FailureReason(error.reason), error.detail))
    return HealthAnswer(Health.OK)


def _log_begins(container: ContainerSnapshot) -> float | None:
    """The Unix time of the first log line of this run."""
    return None if container.started_time is None else container.started_time - _START_LAG_SECONDS
