"""The supervisor's rounds without its loop: look at a World, decide, act once. For tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fake_docker import LIVE, World

from exporter.config import Target
from exporter.container.decide.accounting import action_failed
from exporter.container.decide.activity import Activity
from exporter.container.decide.launch import has_drifted, is_owned
from exporter.container.decide.lifecycle import decide
from exporter.container.decide.log.loading import LoadProgress, read_line
from exporter.container.decide.observation import Action, Decision, Health, Memory, Observation
from exporter.container.decide.policy import Context
from exporter.container.decide.records import MANAGED_LABEL, Cause, DockerError, LifecycleState
from exporter.container.launching import launch_of
from exporter.container.supervisor_config import SupervisorConfig

if TYPE_CHECKING:
    from exporter.container.decide.policy import Policy
    from exporter.container.decide.records import ContainerSnapshot, Launch

STEP = 5.0
IMAGE = "vllm:v1"
_MANAGED = {"model": "m", "image": IMAGE, "hf_cache": "none", "vllm_cache": "none"}
_SUPERVISION = {
    "start_deadline_seconds": 300.0,
    "quiet_deadline_seconds": 100.0,
    "paused_deadline_seconds": 30.0,
    "backoff": {"reset_after_seconds": 200.0, "max_seconds": 60.0},
}


def target(mode: str = "managed", **container: object) -> Target:
    """A target whose container has these settings beside those that all tests share.

    None takes a shared setting away.
    """
    shared = _SUPERVISION | (_MANAGED if mode == "managed" else {"name": "vllm-local"})
    settings = {key: value for key, value in (shared | container).items() if value is not None}
    return Target(name="local", mode=mode, url="http://127.0.0.1:8000", container=settings)


def launch(instance: str | None = None, **container: object) -> Launch:
    return launch_of(target(**container), instance)


def policy(mode: str = "managed", **container: object) -> Policy:
    return SupervisorConfig(target(mode, **container)).policy


POLICY = policy()
ATTACHED = policy("attached")
SETTINGS = POLICY.settings


class Daemon:
    """One daemon's life. `decisions` has every decision, `acted` the actions that were done."""

    def __init__(self, world: World, policy: Policy) -> None:
        self.world = world
        self.policy = policy
        self.launch = launch()
        self.memory = Memory()
        self.decisions: list[Decision] = []
        self.acted: list[Action] = []
        self.held = False
        self.activity = Activity(counts_from=0.0)
        self.suspended = False
        self.reachable = True
        self.jitter = 0.5
        self.log_readable = True

    @property
    def last(self) -> Decision:
        return self.decisions[-1]

    def restart(self) -> None:
        """SIGKILL and a new start: nothing is remembered."""
        self.memory = Memory()

    def look(self) -> Observation:
        try:
            found = self.world.find(f"{MANAGED_LABEL}=local")
            container = found[0] if found else self.world.inspect(self.launch.name)
            image_present = self.world.has_image(self.launch.image)
        except DockerError as error:
            return Observation(docker=error.problem, held=self.held)
        health, age = Health.NOT_ASKED, None
        if container is not None and container.status in LIVE:
            health = Health.OK if self.world.healthy() else Health.FAILED
            if not (self.reachable and self.world.listens()):
                health = Health.UNREACHABLE
            age = self.world.clock.time() - (container.started_time or 0.0)
        return Observation(
            container=container,
            ours=container is None or is_owned(container, "local", None),
            image_present=image_present,
            drifted=None if container is None else has_drifted(container, self.launch),
            health=health,
            activity=self.activity,
            suspended=self.suspended,
            running_seconds=age,
            log=self._log(container),
            held=self.held,
        )

    def _log(self, container: ContainerSnapshot | None) -> LoadProgress | None:
        if container is None or not self.log_readable:
            return None
        progress = LoadProgress()
        for line in self.world.containers[container.name].log:
            if container.started_time is not None and line.time >= container.started_time:
                progress = read_line(progress, line.text)
        return progress

    def decide(self) -> Decision:
        context = Context(self.world.clock.monotonic(), self.policy, self.jitter)
        decision = decide(self.memory, self.look(), context)
        self.memory = decision.memory
        self.decisions.append(decision)
        return decision

    def act(self, decision: Decision) -> None:
        if decision.action is Action.NOTHING:
            return
        self.acted.append(decision.action)
        try:
            self._do(decision)
        except DockerError as error:
            context = Context(self.world.clock.monotonic(), self.policy, self.jitter)
            self.memory, _ = action_failed(self.memory, error.problem, context)

    def _do(self, decision: Decision) -> None:
        world, container_id = self.world, decision.container_id
        if decision.action is Action.PULL:
            world.pull(self.launch.image)
        elif decision.action is Action.CREATE:
            world.create(self.launch, {})
        else:
            assert container_id is not None
            {
                Action.START: world.start,
                Action.STOP: world.stop,
                Action.REMOVE: world.remove,
                Action.UNPAUSE: world.unpause,
            }[decision.action](container_id)

    def round(self) -> Decision:
        decision = self.decide()
        self.act(decision)
        return decision

    def run(self, seconds: float, step: float = STEP) -> list[Decision]:
        """Rounds for that long, one every `step`; what was decided in them."""
        first = len(self.decisions)
        end = self.world.clock.monotonic() + seconds
        while self.world.clock.monotonic() < end:
            self.round()
            self.world.clock.jump(step)  # type: ignore[attr-defined]
        return self.decisions[first:]

    def settings(self, **changes: object) -> None:
        """Other settings from now on, as after a change of the file and a restart."""
        self.launch = launch(**changes)


def states(daemon: Daemon) -> list[LifecycleState]:
    """The states in order, repetitions left out."""
    told: list[LifecycleState] = []
    for decision in daemon.decisions:
        if not told or told[-1] is not decision.state:
            told.append(decision.state)
    return told


def ready(daemon: Daemon) -> Daemon:
    daemon.run(60)
    assert daemon.last.state is LifecycleState.READY
    daemon.decisions.clear()
    daemon.acted.clear()
    return daemon


def failures(daemon: Daemon) -> list[tuple[Cause, bool]]:
    return [(d.failed.cause, d.failed.in_start) for d in daemon.decisions if d.failed]
