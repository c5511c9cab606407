"""What surrounds a container's life: Docker, operators, daemons, settings and other owners."""

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
    launch,
    policy,
    ready,
    states,
)

from exporter.config import BackoffSettings
from exporter.container.decide.lifecycle import decide
from exporter.container.decide.observation import Action
from exporter.container.decide.policy import Context, delay_after
from exporter.container.decide.records import Cause, ContainerStatus, LifecycleState

S = LifecycleState


@pytest.fixture
def world() -> World:
    world = World(FakeClock())
    world.images.add(IMAGE)
    return world


@pytest.fixture
def daemon(world: World) -> Daemon:
    return Daemon(world, POLICY)


# Docker itself, and operators


def test_docker_that_does_not_answer_is_unknown_and_nothing_is_done_or_counted(world, daemon):
    ready(daemon)
    world.go_down()
    daemon.run(1000)
    assert states(daemon) == [S.UNKNOWN]
    assert daemon.acted == []
    world.down = None
    assert daemon.round().state is S.READY
    assert failures(daemon) == []


def test_time_without_docker_counts_against_no_start(world, daemon):
    world.load_seconds = 290.0
    daemon.run(100)
    world.go_down()
    daemon.run(5000)
    world.down = None
    world.only().ready_at = world.clock.time() + 150
    daemon.log_readable = False
    daemon.run(140)
    assert daemon.last.state is S.STARTING
    daemon.run(30)
    assert daemon.last.state is S.READY
    assert failures(daemon) == []


def test_a_container_that_ended_while_docker_was_away_is_started_again(world, daemon):
    ready(daemon)
    world.go_down()
    world.end(world.only(), 0)
    daemon.run(30)
    world.down = None
    assert daemon.round().state is S.BACKING_OFF
    daemon.run(60)
    assert daemon.last.state is S.READY
    assert failures(daemon) == [(Cause.EXITED, False)]


def test_an_action_whose_answer_was_lost_is_not_repeated_at_once(world, daemon):
    daemon.round()
    start = daemon.decide()
    assert start.action is Action.START
    world.go_down()
    daemon.act(start)
    daemon.round()
    world.down = None
    world.start(world.only().id)  # it had worked after all
    world.did.clear()
    daemon.run(60)
    assert world.did == []
    assert daemon.last.state is S.READY
    assert [d.started.by_us for d in daemon.decisions if d.started] == [True]
    assert daemon.memory.failures == 0


def test_nothing_is_done_while_an_operator_holds_the_target(world, daemon):
    ready(daemon)
    daemon.held = True
    world.end(world.only(), 1)
    daemon.run(500)
    world.vanish(world.only())
    daemon.run(500)
    assert states(daemon) == [S.HELD]
    assert daemon.acted == []
    daemon.held = False
    daemon.run(60)
    assert daemon.last.state is S.READY
    assert failures(daemon) == []


def test_a_hold_outlasts_docker(world, daemon):
    daemon.held = True
    world.go_down()
    assert daemon.round().state is S.HELD


def test_docker_that_restarts_it_is_left_to_do_so(world, daemon):
    ready(daemon)
    world.only().status = ContainerStatus.RESTARTING
    world.only().exit_code = 1
    daemon.run(30)
    assert states(daemon) == [S.BACKING_OFF]
    assert daemon.acted == []
    assert failures(daemon) == [(Cause.EXITED, False)]


def test_a_restart_by_another_tool_is_noticed_although_the_exit_was_missed(world, daemon):
    ready(daemon)
    world.only().started_time = world.clock.time()
    decision = daemon.round()
    assert decision.started is not None
    assert not decision.started.by_us
    assert decision.started.again
    assert failures(daemon) == [(Cause.RESTARTED_ELSEWHERE, False)]
    assert daemon.acted == []


# The daemon's own restart


def test_a_new_daemon_adopts_what_runs_without_restarting_it(daemon):
    ready(daemon).restart()
    daemon.run(100)
    assert daemon.acted == []
    assert states(daemon) == [S.READY]
    began = daemon.decisions[0].started
    assert began is not None
    assert began.adopted


@pytest.mark.parametrize("log_readable", [True, False])
def test_an_old_container_that_fails_has_its_checks_and_no_start_deadline(
    world, daemon, log_readable
):
    daemon.run(5000)
    daemon.restart()
    daemon.decisions.clear()
    daemon.acted.clear()
    daemon.log_readable = log_readable
    world.only().unhealthy = True
    daemon.run(10)
    assert daemon.acted == []
    daemon.run(10)
    assert failures(daemon) == [(Cause.HEALTH_FAILED, True)]


@pytest.mark.parametrize("age", [0, 100, 299, 300, 301, 599, 601, 10**6])
@pytest.mark.parametrize("log_readable", [True, False])
def test_nothing_is_stopped_at_the_first_observation_of_a_daemon(world, daemon, age, log_readable):
    world.load_seconds = None
    world.start(world.create(daemon.launch, {}))
    world.clock.jump(age)
    daemon.log_readable = log_readable
    assert daemon.round().action is Action.NOTHING
    assert daemon.last.state is S.STARTING


def test_a_new_daemon_counts_the_time_that_a_start_has_already_taken(world, daemon):
    world.load_seconds = None
    daemon.run(80)
    daemon.restart()
    for _ in range(23):
        world.write(world.only(), "chatter")
        daemon.run(10)
    assert (Cause.START_TIMEOUT, True) in failures(daemon)


def test_a_new_daemon_starts_what_was_stopped_at_once_and_calls_it_no_failure(world, daemon):
    ready(daemon)
    world.stop(world.only().id)
    daemon.restart()
    assert daemon.round().action is Action.START
    daemon.run(60)
    assert failures(daemon) == []


@pytest.mark.parametrize("rounds_before", range(8))
@pytest.mark.parametrize("acted", [True, False])
@pytest.mark.parametrize("fate", ["nothing", "crash", "unhealthy", "removed", "drift"])
def test_after_a_kill_at_any_moment_the_next_daemon_reaches_ready(
    world, daemon, rounds_before, acted, fate
):
    """SIGKILL after a decision, with its action done or not, and a fault before the next start."""
    world.images.clear()
    world.in_registry.add(IMAGE)
    daemon.policy = policy(on_drift="recreate")
    for _ in range(rounds_before):
        daemon.round()
        world.clock.jump(5)
    if world.containers and world.only().status is ContainerStatus.RUNNING:
        {
            "nothing": lambda: None,
            "crash": lambda: world.end(world.only(), 1),
            "unhealthy": lambda: setattr(world.only(), "unhealthy", True),
            "removed": lambda: world.vanish(world.only()),
            "drift": lambda: daemon.settings(block_size=32),
        }[fate]()
    decision = daemon.decide()
    if acted:
        daemon.act(decision)
    daemon.restart()
    first_actions = len(daemon.acted)
    serving = world.healthy()
    daemon.run(300)
    assert daemon.last.state is S.READY
    assert len(world.containers) == 1
    assert world.snapshot(world.only()).labels == daemon.launch.labels
    if serving and fate == "nothing":
        assert daemon.acted[first_actions:] == []


# Drift


def test_changed_settings_are_only_reported_by_default(daemon):
    ready(daemon)
    daemon.settings(block_size=32)
    daemon.restart()
    daemon.run(300)
    assert daemon.acted == []
    assert daemon.last.state is S.READY


def test_changed_settings_create_the_container_again_with_on_drift(world):
    daemon = ready(Daemon(world, policy(on_drift="recreate")))
    daemon.settings(block_size=32)
    daemon.restart()
    daemon.run(300)
    assert daemon.acted == [Action.STOP, Action.REMOVE, Action.CREATE, Action.START]
    assert failures(daemon) == []
    assert daemon.last.state is S.READY
    start = next(d for d in daemon.decisions if d.action is Action.START)
    assert start.cause is Cause.CONFIG_CHANGED


def test_a_working_container_is_not_replaced_while_the_new_image_cannot_be_pulled(world):
    daemon = ready(Daemon(world, policy(on_drift="recreate")))
    daemon.settings(image="vllm:v2")
    daemon.restart()
    daemon.run(600)
    assert set(states(daemon)) == {S.READY}
    assert set(daemon.acted) == {Action.PULL}
    assert daemon.acted.count(Action.PULL) <= 11
    world.in_registry.add("vllm:v2")
    daemon.run(300)
    assert world.only().image == "vllm:v2"
    assert daemon.last.state is S.READY


def test_a_start_is_not_ended_for_changed_settings(world):
    daemon = Daemon(world, policy(on_drift="recreate"))
    daemon.run(15)
    daemon.settings(block_size=32)
    daemon.restart()
    daemon.acted.clear()
    daemon.run(10)
    assert daemon.last.state is S.STARTING
    assert daemon.acted == []


def test_a_container_that_crashed_is_started_with_the_new_settings(world, daemon):
    world.crash_after = 2.0
    daemon.run(60)
    while daemon.last.state is not S.BACKING_OFF:
        daemon.run(5)
    daemon.settings(args=("--right",))
    daemon.restart()
    world.crash_after = None
    daemon.acted.clear()
    daemon.run(90)
    assert daemon.acted == [Action.REMOVE, Action.CREATE, Action.START]
    assert daemon.last.state is S.READY


def test_a_container_that_was_just_created_is_not_created_again(world):
    """A label that Docker changed, or a hash that is not stable, must not become a loop."""
    daemon = Daemon(world, policy(on_drift="recreate"))
    odd = {**daemon.launch.labels, "io.vllm-cache-exporter.config-hash": "v1-x"}
    made_as = replace(daemon.launch, labels=odd)
    daemon.round()
    world.only().labels = made_as.labels
    daemon.run(300)
    assert daemon.acted == [Action.CREATE, Action.START]
    assert daemon.last.state is S.READY


# Not ours


def test_a_container_of_that_name_that_is_not_ours_is_never_touched(world, daemon):
    world.create(replace(launch(), labels={}), {})
    world.did.clear()
    daemon.run(100)
    world.only().status = ContainerStatus.RUNNING
    daemon.run(100)
    world.only().status = ContainerStatus.EXITED
    daemon.run(100)
    assert world.did == []
    assert states(daemon) == [S.ABSENT]
    assert daemon.last.cause is Cause.NAME_TAKEN
    assert failures(daemon) == []


def test_attached_only_reports(world):
    daemon = Daemon(world, ATTACHED)
    daemon.run(20)
    assert states(daemon) == [S.ABSENT]
    container_id = world.create(daemon.launch, {})
    world.start(container_id)
    world.did.clear()
    daemon.run(60)
    world.only().unhealthy = True
    daemon.run(60)
    world.only().unhealthy = False
    daemon.run(20)
    world.pause(world.only())
    daemon.run(100)
    world.only().status = ContainerStatus.RUNNING
    daemon.run(20)
    world.end(world.only(), 1)
    daemon.run(100)
    world.vanish(world.only())
    daemon.run(100)
    assert states(daemon) == [
        *(S.ABSENT, S.STARTING, S.READY, S.UNHEALTHY, S.READY, S.UNHEALTHY, S.READY, S.UNHEALTHY),
        S.ABSENT,
    ]
    assert world.did == []
    assert all(d.not_before is None for d in daemon.decisions)


def test_attached_restarts_if_allowed_and_never_creates_or_removes(world):
    daemon = Daemon(world, policy("attached", restart="always"))
    container_id = world.create(daemon.launch, {})
    world.start(container_id)
    ready(daemon)
    world.end(world.only(), 1)
    daemon.run(60)
    assert daemon.last.state is S.READY
    world.only().unhealthy = True
    daemon.run(90)
    assert daemon.last.state is S.READY
    assert daemon.acted == [Action.START, Action.STOP, Action.START]
    world.vanish(world.only())
    daemon.run(100)
    assert daemon.last.state is S.ABSENT
    assert daemon.acted == [Action.START, Action.STOP, Action.START]


def test_managed_without_restarts_is_started_once_and_then_watched(world):
    daemon = ready(Daemon(world, policy(restart="never")))
    world.only().unhealthy = True
    daemon.run(60)
    assert daemon.last.state is S.UNHEALTHY
    world.end(world.only(), 1)
    daemon.run(500)
    assert daemon.last.state is S.UNHEALTHY
    assert daemon.acted == []


# The delay


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_delay_grows_and_is_capped(jitter):
    delays = [delay_after(n, SETTINGS.backoff, jitter) for n in range(1, 400)]
    assert delays[0] == pytest.approx(5.0 * (1 - 0.1 * jitter))
    assert all(a <= b for a, b in pairwise(delays))
    assert delays[1] > delays[0]
    assert max(delays) <= SETTINGS.backoff.max_seconds


def test_a_factor_of_one_keeps_the_delay():
    backoff = BackoffSettings(factor=1.0)
    assert delay_after(10**9, backoff, 0.0) == 5.0


def test_the_context_is_the_only_source_of_time_and_chance(world, daemon):
    """The same memory, observation and context give the same decision: nothing else is read."""
    ready(daemon)
    world.only().unhealthy = True
    memory, seen = daemon.memory, daemon.look()
    context = Context(world.clock.monotonic(), POLICY, 0.3)
    assert decide(memory, seen, context) == decide(memory, seen, context)
