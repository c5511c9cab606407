"""Every remembered past, every look and every policy: what must hold for each decision at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import pytest
from fake_clock import FakeClock
from fake_docker import World
from lifecycle_daemon import ATTACHED, IMAGE, POLICY, Daemon, policy

from exporter.container.decide.accounting import account, pass_time
from exporter.container.decide.activity import Activity
from exporter.container.decide.lifecycle import TABLE, UNDER_WAY, Situation, classify, decide
from exporter.container.decide.log.loading import LoadProgress
from exporter.container.decide.observation import (
    Action,
    Decision,
    Health,
    Memory,
    Observation,
    run_key,
)
from exporter.container.decide.policy import Context, Policy
from exporter.container.decide.records import (
    Cause,
    ContainerSnapshot,
    ContainerStatus,
    DockerError,
    DockerProblem,
    LifecycleState,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICIES = {
    "managed": POLICY,
    "managed, recreates": policy(on_drift="recreate"),
    "managed, no restarts": policy(restart="never"),
    "attached": ATTACHED,
    "attached, restarts": policy("attached", restart="always"),
}
LIVE = {ContainerStatus.RUNNING, ContainerStatus.PAUSED}
GONE_OR_DOWN = {Action.CREATE, Action.START, Action.REMOVE}
IMAGE_AND_DRIFT = [*product((True, False), (True, False)), (None, None)]
FAILED_PROBES = Activity(failed=(0.0, 1.0, 2.0), counts_from=0.0)
SLOW = Activity(slow=3, counts_from=0.0, last_work_at=5.0)
AILMENTS = {
    Cause.HEALTH_FAILED,
    Cause.PROBES_FAILED,
    Cause.START_TIMEOUT,
    Cause.LOADING_HANGS,
}
MAKING = {Action.PULL, Action.CREATE, Action.REMOVE}


@dataclass(frozen=True)
class Past:
    memory: Memory
    now: float
    container: ContainerSnapshot | None


def new_daemon(policy: Policy) -> Daemon:
    world = World(FakeClock())
    world.images.add(IMAGE)
    return Daemon(world, policy)


def refuse_to_stop(daemon: Daemon) -> None:
    daemon.world.refuse["stop"] = DockerError(DockerProblem.TIMEOUT, "stop")
    settings = daemon.policy.settings
    slow = settings.backoff.model_copy(update={"initial_seconds": 60.0})
    patient = settings.model_copy(update={"backoff": slow})
    daemon.policy = replace(daemon.policy, settings=patient)
    daemon.run(10)


def fail_again_and_again(daemon: Daemon) -> None:
    for _ in range(daemon.policy.settings.restarts_per_hour):
        daemon.world.only().unhealthy = True
        daemon.run(200)
        daemon.world.only().unhealthy = False
        daemon.run(100)
    daemon.world.only().unhealthy = True
    daemon.run(15)


def pasts(policy: Policy) -> dict[str, Past]:
    """Memories that real lives leave behind, each with the container as it was seen last."""
    found: dict[str, Past] = {}

    def keep(name: str, daemon: Daemon) -> None:
        containers = list(daemon.world.containers.values())
        snapshot = daemon.world.snapshot(containers[0]) if containers else None
        found[name] = Past(daemon.memory, daemon.world.clock.monotonic(), snapshot)

    def heartbeat(*, reachable: bool = True) -> Daemon:
        daemon = new_daemon(policy)
        daemon.reachable = reachable
        if not policy.managed:
            daemon.world.start(daemon.world.create(daemon.launch, {}))
        daemon.run(60)
        return daemon

    daemon = heartbeat()
    keep("ready", daemon)
    daemon.run(300)
    keep("stable", daemon)
    daemon.world.go_down()
    daemon.run(30)
    keep("unknown", daemon)
    daemon = heartbeat()
    daemon.world.only().unhealthy = True
    daemon.run(10)
    keep("nearly unhealthy", daemon)
    refuse_to_stop(daemon)
    keep("unhealthy or being stopped", daemon)
    daemon = heartbeat()
    fail_again_and_again(daemon)
    keep("unhealthy again and again", daemon)
    keep("never reached", heartbeat(reachable=False))
    daemon = heartbeat()
    daemon.world.pause(daemon.world.only())
    daemon.run(20)
    keep("paused", daemon)
    daemon = heartbeat()
    daemon.world.end(daemon.world.only(), 1)
    daemon.decide()
    keep("backing off", daemon)
    daemon = heartbeat()
    daemon.world.vanish(daemon.world.only())
    daemon.decide()
    keep("removed", daemon)
    daemon = new_daemon(policy)
    keep("new", daemon)
    daemon.round()
    keep("created", daemon)
    daemon.run(10)
    keep("loading", daemon)
    return found


def containers(past: Past) -> Iterator[ContainerSnapshot | None]:
    """None, what was there last and one that is new, each in every status Docker has."""
    yield None
    new = ContainerSnapshot(
        *("c99", "vllm-local", IMAGE, "sha256:1", ContainerStatus.RUNNING),
        exit_code=None,
        oom_killed=False,
        error="",
        started_time=1_699_999_990.0,
        finished_time=None,
    )
    for base in (past.container, new):
        if base is None:
            continue
        for status in ContainerStatus:
            code = 0 if status is ContainerStatus.EXITED else None
            yield replace(base, status=status, exit_code=code)


def observations(past: Past) -> Iterator[Observation]:
    yield from (Observation(docker=problem) for problem in DockerProblem)
    yield Observation(held=True)
    yield Observation(held=True, docker=DockerProblem.TIMEOUT)
    for container in containers(past):
        run = past.memory.run
        same = container is not None and run is not None and run.key == run_key(container)
        for ours, (image, drifted), (health, log), (activity, suspended) in product(
            (True, False), IMAGE_AND_DRIFT, inside(past, container), activities(same=same)
        ):
            yield Observation(
                container=container,
                ours=ours,
                other_exporter=not ours and image is None,
                image_present=image,
                drifted=drifted,
                health=health,
                log=log,
                activity=activity if health is Health.OK else Activity(),
                suspended=suspended,
                running_seconds=None if container is None else 10.0,
            )


def activities(*, same: bool) -> list[tuple[Activity, bool]]:
    """What the probes and the engine's counters may say of this run, and whether it rests."""
    if not same:
        return [(Activity(), False)]
    return [(FAILED_PROBES, False), (FAILED_PROBES, True), (SLOW, False)]


def inside(
    past: Past, container: ContainerSnapshot | None
) -> list[tuple[Health, LoadProgress | None]]:
    """What /health and the log may say; of one that does not run they say nothing."""
    if container is None or container.status not in LIVE:
        return [(Health.NOT_ASKED, None)]
    run = past.memory.run
    silent = LoadProgress(
        lines=run.lines if run else 0, progress_lines=run.progress_lines if run else 0
    )
    up = LoadProgress(lines=9, progress_lines=9, served=True)
    return list(product(Health, (None, silent, LoadProgress(lines=9, progress_lines=3), up)))


def check(past: Past, seen: Observation, context: Context, decision: Decision) -> None:
    policy, container, action = context.policy, seen.container, decision.action
    live = container is not None and container.status in LIVE
    if seen.held:
        assert (decision.state, action) == (LifecycleState.HELD, Action.NOTHING)
        return
    if seen.docker is not None:
        assert (decision.state, action) == (LifecycleState.UNKNOWN, Action.NOTHING)
        assert decision.memory.failures == past.memory.failures
        assert decision.failed is None
        return
    check_rights(seen, policy, action)
    check_fit(seen, action)
    if action is Action.STOP and decision.cause in AILMENTS:
        assert not (seen.suspended and decision.cause is Cause.PROBES_FAILED)
        assert seen.activity is not SLOW or decision.cause is not Cause.PROBES_FAILED
        assert len(decision.memory.stop_times) <= policy.settings.restarts_per_hour
        reached = container is not None and decision.memory.reached_id == container.id
        up = seen.log is not None and seen.log.served
        assert reached or not up or seen.health is not Health.UNREACHABLE
    if decision.state is LifecycleState.BUSY:
        assert action is Action.NOTHING
    if action in GONE_OR_DOWN:
        assert not live
        assert decision.memory.not_before is None or decision.memory.not_before <= context.now
    if decision.state in {LifecycleState.READY, LifecycleState.BUSY}:
        assert live
    if decision.state in {LifecycleState.BACKING_OFF, LifecycleState.ABSENT}:
        assert not live or not seen.ours
    if decision.not_before is not None:
        assert decision.not_before > context.now
    assert decision.memory.failures - past.memory.failures <= 1
    assert decision.memory.initialised


def check_fit(seen: Observation, action: Action) -> None:
    """An action is only asked for where it makes sense."""
    status = seen.container.status if seen.container is not None else None
    if action is Action.CREATE:
        assert status is None
        assert seen.image_present is not False
    if action is Action.PULL:
        assert seen.image_present is False
    if action is Action.STOP:
        assert status is ContainerStatus.RUNNING
    if action is Action.UNPAUSE:
        assert status is ContainerStatus.PAUSED


def check_rights(seen: Observation, policy: Policy, action: Action) -> None:
    if not policy.managed:
        assert action not in MAKING
        if not policy.may_restart:
            assert action is Action.NOTHING
    elif seen.container is not None and not seen.ours:
        assert action is Action.NOTHING
    if not policy.may_restart:
        assert action is not Action.STOP or policy.settings.on_drift == "recreate"
        assert action is not Action.UNPAUSE


def check_the_next_observation(first: Decision, seen: Observation, context: Context) -> None:
    """The same look once more, at once: nothing is done twice, no failure is counted twice."""
    second = decide(first.memory, seen, context)
    if first.action is not Action.NOTHING:
        assert second.action is Action.NOTHING
    if second.failed is not None:  # a further failed health check may be the one too many
        assert second.failed.cause is Cause.HEALTH_FAILED
        assert seen.health is Health.FAILED
    assert second.started is None or seen.held


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_invariants_hold_for_every_past_and_every_observation(name: str):
    policy = POLICIES[name]
    seen_situations: set[Situation] = set()
    states: set[LifecycleState] = set()
    for past, later in product(pasts(policy).values(), (5.0, 400.0)):
        context = Context(past.now + later, policy, 0.5)
        for seen in observations(past):
            decision = decide(past.memory, seen, context)
            states.add(decision.state)
            check(past, seen, context, decision)
            check_the_next_observation(decision, seen, context)
            if not seen.held and seen.docker is None:
                counted = pass_time(past.memory, context.now, silent=False)
                memory = account(counted, seen, context).memory
                seen_situations.add(classify(memory, seen, context.now, policy))
    if name == "managed, recreates":
        assert states == set(LifecycleState)
        assert seen_situations == set(Situation) - {Situation.HELD, Situation.DOCKER_SILENT}


def test_the_table_has_a_row_for_every_situation():
    assert set(TABLE) == set(Situation)


def test_a_state_is_named_for_every_action_that_is_under_way():
    assert set(UNDER_WAY) == set(Action) - {Action.NOTHING}


@pytest.mark.parametrize("situation", list(Situation))
def test_an_action_that_may_be_refused_has_a_state_for_that(situation: Situation):
    row = TABLE[situation]
    assert row.action is Action.NOTHING or row.otherwise is not None
