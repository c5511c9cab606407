"""A container's own life, played against a Docker Engine in memory: starts, ends, illness."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from fake_clock import FakeClock
from fake_docker import World
from lifecycle_daemon import (
    ATTACHED,
    IMAGE,
    POLICY,
    SETTINGS,
    Daemon,
    failures,
    policy,
    ready,
    states,
)

from exporter.container.decide.activity import Activity
from exporter.container.decide.observation import Action
from exporter.container.decide.records import (
    Cause,
    ContainerStatus,
    DockerError,
    DockerProblem,
    LifecycleState,
)

S = LifecycleState


@pytest.fixture
def world() -> World:
    world = World(FakeClock())
    world.images.add(IMAGE)
    return world


@pytest.fixture
def daemon(world: World) -> Daemon:
    return Daemon(world, POLICY)


# From nothing to ready


def test_from_nothing_to_ready(world, daemon):
    world.images.clear()
    world.in_registry.add(IMAGE)
    daemon.run(60)
    assert states(daemon) == [S.PULLING, S.CREATING, S.STARTING, S.READY]
    assert daemon.acted == [Action.PULL, Action.CREATE, Action.START]
    assert [d.became_ready for d in daemon.decisions].count(True) == 1


def test_a_ready_container_is_left_alone(daemon):
    ready(daemon).run(1000)
    assert states(daemon) == [S.READY]
    assert daemon.acted == []


def test_an_image_that_cannot_be_pulled_backs_off(world, daemon):
    world.images.clear()
    daemon.run(100, step=1)
    assert states(daemon)[:2] == [S.PULLING, S.BACKING_OFF]
    assert 3 <= daemon.acted.count(Action.PULL) <= 5
    assert set(daemon.acted) == {Action.PULL}


def test_a_creation_that_docker_refuses_backs_off(world, daemon):
    world.refuse["create"] = DockerError(DockerProblem.BAD_REQUEST, "no such network")
    daemon.run(100, step=1)
    assert daemon.acted.count(Action.CREATE) <= 5
    del world.refuse["create"]
    daemon.run(100)
    assert daemon.last.state is S.READY


def test_a_start_that_docker_refuses_backs_off_and_counts_once_each(world, daemon):
    refusal = DockerError(DockerProblem.GPU_DRIVER_MISSING, "could not select device driver")
    world.refuse["start"] = refusal
    daemon.run(100, step=1)
    assert daemon.last.state is S.BACKING_OFF
    assert daemon.memory.failures == daemon.acted.count(Action.START) <= 5
    assert daemon.acted.count(Action.CREATE) == 1


def test_what_a_refused_start_leaves_behind_is_not_the_end_of_a_run(world, daemon):
    daemon.round()
    world.refuse["start"] = DockerError(DockerProblem.PORT_TAKEN, "port is already allocated")
    daemon.round()
    world.only().status = ContainerStatus.EXITED
    daemon.round()
    assert daemon.memory.failures == 1
    assert failures(daemon) == []


# Ends


@pytest.mark.parametrize("code", [0, 1, 137, 143])
def test_an_unrequested_exit_is_a_failure_with_any_exit_code(world, daemon, code):
    ready(daemon)
    world.end(world.only(), code)
    daemon.run(60)
    assert states(daemon) == [S.BACKING_OFF, S.STARTING, S.READY]
    assert failures(daemon) == [(Cause.EXITED, False)]
    assert daemon.acted == [Action.START]


def test_an_end_is_counted_once_however_often_it_is_seen(world, daemon):
    ready(daemon)
    world.end(world.only(), 1)
    for _ in range(10):
        daemon.round()
    assert daemon.memory.failures == 1


def test_restart_waits_longer_after_each_crash_up_to_the_cap(world, daemon):
    world.crash_after = 3.0
    daemon.jitter = 0.0
    starts: list[float] = []
    for _ in range(3000):
        if daemon.round().action is Action.START:
            starts.append(world.clock.monotonic())
        world.clock.jump(0.5)
    waits = [later - sooner - 3.0 for sooner, later in pairwise(starts)]
    assert waits[:5] == pytest.approx([5, 10, 20, 40, 60], abs=1.5)
    assert all(wait == pytest.approx(60, abs=1.5) for wait in waits[4:])
    assert all(in_start for _, in_start in failures(daemon))


def test_after_a_stable_time_the_delay_is_short_again(world, daemon):
    ready(daemon)
    for _ in range(3):
        world.end(world.only(), 1)
        daemon.run(100)
    assert daemon.memory.failures == 3
    daemon.run(SETTINGS.backoff.reset_after_seconds)
    assert daemon.memory.failures == 0
    world.end(world.only(), 1)
    daemon.round()
    assert daemon.memory.failures == 1


def test_a_time_of_illness_is_not_part_of_a_stable_time(world):
    daemon = Daemon(world, ATTACHED)
    world.start(world.create(daemon.launch, {}))
    ready(daemon)
    world.end(world.only(), 1)
    daemon.round()
    world.start(world.only().id)
    daemon.run(180)
    world.only().unhealthy = True
    daemon.run(20)
    world.only().unhealthy = False
    daemon.run(180)
    assert daemon.memory.failures == 1
    daemon.run(30)
    assert daemon.memory.failures == 0


def test_a_container_removed_by_hand_is_created_again(world, daemon):
    ready(daemon)
    world.vanish(world.only())
    daemon.run(90)
    assert states(daemon) == [S.BACKING_OFF, S.CREATING, S.STARTING, S.READY]
    assert failures(daemon) == [(Cause.REMOVED, False)]
    assert next(d for d in daemon.decisions if d.action is Action.START).cause is Cause.REMOVED


def test_a_removal_that_is_seen_under_way_is_a_removal_too(world, daemon):
    ready(daemon)
    world.only().status = ContainerStatus.REMOVING
    assert daemon.round().state is S.STOPPING
    world.only().status = ContainerStatus.EXITED
    world.vanish(world.only())
    daemon.round()
    assert failures(daemon) == [(Cause.REMOVED, False)]


def test_a_dead_container_is_replaced(world, daemon):
    ready(daemon)
    world.only().status = ContainerStatus.DEAD
    daemon.run(90)
    assert daemon.acted == [Action.REMOVE, Action.CREATE, Action.START]
    assert daemon.last.state is S.READY


# Starting


def test_a_long_start_with_progress_is_not_stopped_at_its_deadline(world, daemon):
    world.load_seconds = None
    daemon.round(), daemon.round()
    for _ in range(50):
        world.write(world.only(), "Loading safetensors checkpoint shards: 1%")
        daemon.run(10)
    assert states(daemon) == [S.CREATING, S.STARTING]
    world.only().ready_at = world.clock.time()
    daemon.round()
    assert daemon.last.state is S.READY


def test_at_twice_the_deadline_even_a_start_with_progress_is_stopped(world, daemon):
    world.load_seconds = None
    daemon.round(), daemon.round()
    for _ in range(61):
        world.write(world.only(), "Loading safetensors checkpoint shards: 1%")
        daemon.run(10)
    assert (Cause.START_TIMEOUT, True) in failures(daemon)
    assert Action.STOP in daemon.acted


def test_chatter_is_no_progress(world, daemon):
    world.load_seconds = None
    daemon.round(), daemon.round()
    for _ in range(30):
        world.write(world.only(), "waiting for the lock")
        daemon.run(10)
        assert Action.STOP not in daemon.acted
    for _ in range(2):
        world.write(world.only(), "waiting for the lock")
        daemon.run(10)
    assert failures(daemon) == [(Cause.START_TIMEOUT, True)]


def test_a_log_that_goes_quiet_is_a_hanging_start(world, daemon):
    world.load_seconds = None
    began = world.clock.monotonic()
    daemon.run(130)
    assert failures(daemon) == [(Cause.LOADING_HANGS, True)]
    stop = next(d for d in daemon.decisions if d.action is Action.STOP)
    asked = stop.memory.pending_action
    assert asked is not None
    assert asked.at - began == pytest.approx(100, abs=15)


def test_a_log_that_cannot_be_read_is_not_taken_for_a_quiet_one(world, daemon):
    world.load_seconds = None
    daemon.log_readable = False
    daemon.run(290)
    assert failures(daemon) == []
    daemon.run(30)
    assert failures(daemon) == [(Cause.START_TIMEOUT, True)]


def test_failed_health_checks_do_not_count_before_the_server_is_up(world, daemon):
    world.load_seconds = 250.0
    daemon.run(300)
    assert states(daemon) == [S.CREATING, S.STARTING, S.READY]
    assert all(d.memory.run is None or d.memory.run.health_failures == 0 for d in daemon.decisions)


def test_a_server_that_says_it_is_up_and_never_answers_is_unhealthy(world, daemon):
    world.load_seconds = 20.0
    daemon.run(10)
    world.only().unhealthy = True
    daemon.run(60)
    assert failures(daemon)[0] == (Cause.HEALTH_FAILED, True)


# Unhealthy


def test_one_failed_health_check_is_not_enough(world, daemon):
    ready(daemon)
    for unhealthy in (True, True, False, True, True, False):
        world.only().unhealthy = unhealthy
        assert daemon.run(5)[-1].state is S.READY
    assert daemon.acted == []


def test_too_many_failed_health_checks_restart(world, daemon):
    ready(daemon)
    world.only().unhealthy = True
    daemon.run(90, step=2)
    assert states(daemon) == [S.READY, S.UNHEALTHY, S.BACKING_OFF, S.STARTING, S.READY]
    assert daemon.acted == [Action.STOP, Action.START]
    assert failures(daemon) == [(Cause.HEALTH_FAILED, False)]
    assert next(d for d in daemon.decisions if d.action is Action.START).cause is (
        Cause.HEALTH_FAILED
    )


def test_failed_probes_restart_although_health_is_fine(daemon):
    ready(daemon)
    daemon.activity = Activity(failed=(1.0, 2.0))
    daemon.run(20)
    assert daemon.last.state is S.READY
    daemon.activity = Activity(failed=(1.0, 2.0, 3.0))
    daemon.round()
    daemon.activity = Activity()
    daemon.run(60)
    assert failures(daemon) == [(Cause.PROBES_FAILED, False)]
    assert daemon.acted == [Action.STOP, Action.START]


def test_probes_can_be_left_out_of_it(world):
    daemon = ready(Daemon(world, policy(probe_failures=0)))
    daemon.activity = Activity(failed=tuple(map(float, range(100))))
    daemon.run(50)
    assert daemon.acted == []


def test_a_stop_that_does_not_work_is_tried_again_with_growing_delay(world, daemon):
    ready(daemon)
    world.only().unhealthy = True
    world.refuse["stop"] = DockerError(DockerProblem.TIMEOUT, "stop: no answer")
    daemon.run(120)
    assert S.STOPPING in states(daemon)
    assert 2 <= daemon.acted.count(Action.STOP) <= 5
    assert failures(daemon) == [(Cause.HEALTH_FAILED, False)]


def test_an_end_long_after_a_stop_that_did_not_work_was_not_asked_for(world, daemon):
    ready(daemon)
    world.only().unhealthy = True
    world.refuse["stop"] = DockerError(DockerProblem.TIMEOUT, "stop: no answer")
    daemon.run(20)
    assert daemon.acted == [Action.STOP]
    world.only().unhealthy = False
    daemon.run(300)
    assert daemon.last.state is S.READY
    world.end(world.only(), 0)
    daemon.round()
    assert failures(daemon)[-1] == (Cause.EXITED, False)


def test_a_paused_container_is_unhealthy_and_not_killed_but_let_go_on(world, daemon):
    ready(daemon)
    world.pause(world.only())
    daemon.run(25)
    assert states(daemon) == [S.UNHEALTHY]
    assert daemon.acted == []
    assert daemon.last.cause is Cause.PAUSED
    daemon.run(30)
    assert daemon.acted == [Action.UNPAUSE]
    assert daemon.last.state is S.READY
    assert daemon.last.memory.run == replace(daemon.last.memory.run, health_failures=0)


def test_the_time_of_a_pause_does_not_count_against_the_start(world, daemon):
    world.load_seconds = 290.0
    daemon.log_readable = False  # silence would be a hang, which is not what is tested
    daemon.run(20)
    world.pause(world.only())
    daemon.policy = policy(paused_deadline_seconds=1000.0)
    daemon.run(900)
    world.only().status = ContainerStatus.RUNNING
    world.only().ready_at = world.clock.time() + 250
    daemon.run(90)
    assert daemon.last.state is S.STARTING
    daemon.run(200)
    assert daemon.last.state is S.READY
    assert failures(daemon) == []
