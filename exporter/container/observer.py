"""Looking at one container: what Docker, /health and its log say, as one observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide import activity
from exporter.container.decide.activity import Activity
from exporter.container.decide.launch import has_drifted, is_owned
from exporter.container.decide.log.endings import plain
from exporter.container.decide.log.masking import mask
from exporter.container.decide.observation import Health, HealthAnswer, Observation, run_key
from exporter.container.decide.policy import health_deadline
from exporter.container.decide.records import (
    INSTANCE_LABEL,
    MANAGED_LABEL,
    ContainerStatus,
    DockerError,
)
from exporter.container.log_following import KEPT_LINES, RunFollower

if TYPE_CHECKING:
    from collections.abc import Callable

    import structlog

    from exporter.clock import Clock
    from exporter.container.decide.records import ContainerSnapshot, DockerProblem
    from exporter.container.door import DockerDoor, EngineDoor
    from exporter.container.supervisor_config import SupervisorConfig

LIVE = frozenset({ContainerStatus.RUNNING, ContainerStatus.PAUSED})
_REST_OF_LOG_SECONDS = 2.0
# Docker writes down that a container started after its process did: the first lines, and all lines
# of a process that fails at once, can be older than that. Starts are further apart.
_START_LAG_SECONDS = 1.0


class ContainerObserver:
    """Looks when asked to, and follows the log of the run that goes on in between.

    `snapshot`, `drifted` and `docker` (why Docker does not answer, else None) are of the last
    look. `activity` is for others to keep up to date, and begins anew with each run.
    `health_words` is what /health said when it failed last; `owner` names the exporter that has the
    container, where it is another one.
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
        self._told: set[DockerProblem] = set()
        self.activity = Activity()
        self._config = config
        self._settings = config.container
        self._door = door
        self._clock = clock
        self._log = log
        self._engine = engine
        self._on_load = on_load
        self._began_time = clock.time()
        self._secrets = tuple(config.secrets.values())
        self._follower: RunFollower | None = None
        self._health_failed_at: float | None = None
        self._failed_looks = 0
        self._slowest_health = 0.0
        self._at_rest = False
        self.health_words = ""
        self.owner = ""

    async def look(self) -> Observation:
        """One look. Docker that fails is part of it; nothing else is asked then."""
        held = self._config.held()
        try:
            container = await self.find()
            drifted = self._drift(container)
            image_present = await self._image_present(container, drifted)
        except DockerError as error:
            self.docker_failed(error)
            return Observation(docker=error.problem, held=held)
        self._docker_answers()
        # Of a stranger that has the name nothing is read, shown or followed.
        own = None if self._is_stranger(container) else container
        self.snapshot, self.drifted = own, drifted
        self.owner = self._owner(container)
        await self._follow(own)
        answer = await self._health(own)
        at_rest = await self._rests(answer)
        return Observation(
            container=container,
            ours=own is container,
            other_exporter=bool(self.owner),
            image_present=image_present,
            drifted=drifted,
            health=answer.health,
            activity=self.activity,
            at_rest=at_rest,
            running_seconds=self.age(own),
            log=self._follower.progress if self._follower is not None else None,
            held=held,
        )

    async def find(self) -> ContainerSnapshot | None:
        """The container, or a stranger that has its name. Raises DockerError."""
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
        """Seconds since its run began, by Docker's word and our clock."""
        if container is None or container.started_time is None:
            return None
        return max(0.0, self._clock.time() - container.started_time)

    async def last_lines(self, container: ContainerSnapshot | None) -> list[str]:
        """The end of the last run's log, masked: what was followed of it, else Docker's tail.

        A run so short that no look fell into it was not followed; then what was followed is of
        the run before, and says nothing about this one.
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
        """Remember that Docker does not answer; one line for each kind of failure, until it does.

        A Docker that goes down or comes up fails in several ways in turn.
        """
        if error.problem not in self._told:
            self._told.add(error.problem)
            self._log.warning("docker.failed", problem=error.problem, detail=error.detail)
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
        """In words, the other exporter that looks after it for a target of the same name."""
        if container is None or not self._is_stranger(container):
            return ""
        if not is_owned(container, self._config.target.name, None):
            return ""
        instance = container.labels.get(INSTANCE_LABEL)
        return f"{container.name} belongs to the exporter with instance = {instance!r}"

    def _docker_answers(self) -> None:
        if self.docker is not None:
            self._log.info("docker.recovered", after=self.docker.problem)
        self.docker = None
        self._told.clear()

    async def _image_present(
        self, container: ContainerSnapshot | None, drifted: bool | None
    ) -> bool | None:
        launch = self._config.launch
        if launch is None or (container is not None and not drifted):
            return None  # not needed: no container is going to be made
        return await self._door.has_image(launch.image)

    async def _health(self, container: ContainerSnapshot | None) -> HealthAnswer:
        if container is None or container.status is not ContainerStatus.RUNNING:
            return HealthAnswer(Health.NOT_ASKED)
        since = self._health_failed_at
        if (
            since is not None
            and self._clock.monotonic() - since < self._settings.health_interval_seconds / 2
        ):
            # Docker's events bring looks in quick succession: they must not use up the failures
            # that a look every few seconds is meant to give.
            return HealthAnswer(Health.NOT_ASKED)
        asked = self._clock.monotonic()
        answer = await self._engine.health(
            health_deadline(
                self._settings.health_timeout_seconds, self._slowest_health, self._failed_looks
            )
        )
        answered = self._clock.monotonic()
        self.health_words = answer.detail
        if answer.health is Health.OK:
            self._slowest_health = max(self._slowest_health, answered - asked)
            self._health_failed_at, self._failed_looks = None, 0
        else:
            self._health_failed_at, self._failed_looks = answered, self._failed_looks + 1
        return answer

    async def _rests(self, answer: HealthAnswer) -> bool:
        """Whether it sleeps, is paused or is being scaled: then nothing that fails is held
        against it. It is asked where something fails, for its answers cost the engine a request.
        """
        known = self.activity
        rests = answer.at_rest or known.asleep
        if not rests and (known.failed or known.slow) and answer.health is Health.OK:
            rests = await self._engine.asleep_or_paused()
        if rests:
            self.activity = activity.at_rest(self.activity, self._clock.monotonic())
        if rests is not self._at_rest:
            self._at_rest = rests
            self._log.info("engine.at_rest" if rests else "engine.rest_over")
        return rests

    def _drift(self, container: ContainerSnapshot | None) -> bool | None:
        launch = self._config.launch
        if container is None or launch is None or self._is_stranger(container):
            return None
        return has_drifted(container, launch)

    async def _follow(self, container: ContainerSnapshot | None) -> None:
        if container is None or container.status not in LIVE:
            return  # the follower of the run that ended keeps its last lines for the diagnosis
        key = run_key(container)
        if self._follower is not None and self._follower.key == key:
            return
        await self.close()
        self.activity = activity.new_run(self.activity)
        self._health_failed_at, self._failed_looks = None, 0
        # The log of a server that has served for days is long, and its start of no interest.
        old = (self.age(container) or 0.0) > self._settings.start_deadline_seconds
        self._follower = RunFollower(
            self._door,
            key,
            self._clock,
            self._log,
            read_from=self._clock.time() if old else _log_begins(container),
            counted_from=self._began_time,
            on_load=self._on_load,
            secrets=self._secrets,
            up=old,
        )


def _log_begins(container: ContainerSnapshot) -> float | None:
    """From when on a line is this run's, Unix time."""
    return None if container.started_time is None else container.started_time - _START_LAG_SECONDS
