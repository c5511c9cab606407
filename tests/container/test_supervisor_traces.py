"""What the supervisor says of an end or an illness, and what it must not take for evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from lifecycle_daemon import IMAGE, SETTINGS, launch
from supervisor_scene import scene_of

from exporter.container.decide.records import (
    Cause,
    ContainerStatus,
    DockerError,
    DockerProblem,
    LifecycleState,
)

if TYPE_CHECKING:
    from fake_docker import World

REFUSED = DockerError(DockerProblem.TIMEOUT, "no answer in 10 s")


def theirs(world: World) -> None:
    world.start(world.create(replace(launch(), labels={}), {}))
    world.did.clear()


def serving(world: World) -> None:
    """A container of ours that serves already."""
    world.load_seconds = 0.0
    world.start(world.create(launch(), {}))
    world.did.clear()


async def test_an_exit_between_two_observations_is_not_diagnosed_by_the_run_before_it():
    async with scene_of() as at:
        await at.wait(40)
        at.world.write(at.world.only(), "ERROR EngineDeadError")
        at.world.end(at.world.only(), 0)
        await at.wait(1)
        assert at.view.diagnosis.cause is Cause.ENGINE_CORE_DIED
        at.world.crash_after = 0.0  # from now on it ends before the next observation
        at.world.extra_log = ("vllm: error: unrecognized arguments: --no-such",)
        await at.wait(8)
        assert at.view.diagnosis.cause is Cause.UNRECOGNISED_ARGUMENT


async def test_lines_that_are_older_than_the_start_that_docker_wrote_down_are_of_this_run():
    def at_once(world: World) -> None:
        world.crash_after, world.crash_code = 0.0, 2
        world.extra_log = ("vllm: error: unrecognized arguments: --no-such",)
        world.start_lag = 0.4

    async with scene_of(setting=at_once) as at:
        await at.wait(2)
        assert at.view.diagnosis.cause is Cause.UNRECOGNISED_ARGUMENT


async def test_a_secret_of_ours_is_masked_in_the_evidence_and_in_the_log():
    secret = "correct-horse-battery"
    async with scene_of(secret_environment={"MY_KEY": secret}) as at:
        await at.wait(40)
        at.world.write(at.world.only(), f"EngineDeadError key {secret}")
        at.world.end(at.world.only(), 0)
        await at.wait(2)
        assert at.view.diagnosis.cause is Cause.ENGINE_CORE_DIED
        assert "***" in at.view.diagnosis.evidence
        assert secret not in str(at.views)
        assert secret not in str(at.logged)


async def test_a_foreign_container_with_the_name_is_reported_and_not_read():
    def loud(world: World) -> None:
        theirs(world)
        world.write(world.only(), "their own business")

    async with scene_of(setting=loud) as at:
        await at.wait(30)
        assert at.view.state is LifecycleState.ABSENT
        assert at.view.diagnosis.cause is Cause.NAME_TAKEN
        assert at.view.snapshot is None
        assert "their own business" not in str(at.views) + str(at.logged)
        assert at.view.model_loads == 0
        assert at.world.did == []
        assert at.events("warning") == ["container.unhealthy"]


async def test_the_diagnosis_of_an_attached_container_ends_when_it_is_ready_again():
    async with scene_of(setting=serving, mode="attached") as at:
        await at.wait(5)
        at.world.only().unhealthy = True
        await at.wait(30)
        assert at.view.state is LifecycleState.UNHEALTHY
        assert at.view.diagnosis.cause is Cause.HEALTH_FAILED
        assert at.view.restarts == at.view.start_failures == {}
        at.world.only().unhealthy = False
        await at.wait(10)
        assert at.view.state is LifecycleState.READY
        assert at.view.diagnosis is None
        assert at.events("warning") == ["container.unhealthy"]


async def test_observations_at_events_do_not_use_up_the_failed_health_checks():
    async with scene_of(setting=serving) as at:
        await at.wait(6)
        at.world.only().unhealthy = True
        for _ in range(20):
            at.world.tell(at.world.only(), "kill")
            await at.clock.settle()
        assert at.world.did == []
        at.world.only().unhealthy = False
        await at.wait(20)
        assert at.world.did == []
        assert at.view.health_failures == 1


async def test_a_pause_is_reported_at_once_and_ends_without_a_restart():
    async with scene_of(setting=serving) as at:
        await at.wait(5)
        at.world.pause(at.world.only())
        await at.wait(2)
        assert at.view.state is LifecycleState.UNHEALTHY
        assert at.view.diagnosis.cause is Cause.PAUSED
        await at.wait(SETTINGS.paused_deadline_seconds + 10)
        assert at.view.state is LifecycleState.READY
        assert at.view.diagnosis is None
        assert at.view.restarts == {}
        assert at.world.did == [("unpause", "vllm-local")]


async def test_a_stop_that_docker_refuses_is_not_counted_as_a_failed_start():
    async with scene_of(setting=serving) as at:
        at.world.refuse["stop"] = REFUSED
        await at.wait(5)
        at.world.only().unhealthy = True
        await at.wait(30)
        assert ("stop", "vllm-local") in at.world.did
        assert at.view.start_failures == {}


async def test_a_restart_by_another_tool_is_counted_as_such():
    async with scene_of(setting=serving, mode="attached") as at:
        await at.wait(5)
        at.world.end(at.world.only(), 0)
        at.world.start(at.world.only().id)
        await at.wait(10)
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {Cause.RESTARTED_ELSEWHERE: 1}
        assert at.view.diagnosis is None


async def test_a_first_start_by_another_tool_is_no_restart():
    async with scene_of(mode="attached") as at:
        await at.wait(10)
        assert at.view.state is LifecycleState.ABSENT
        serving(at.world)
        await at.wait(10)
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {}
        assert at.view.diagnosis is None


async def test_weights_that_are_read_again_in_place_are_another_load():
    async with scene_of() as at:
        await at.wait(40)
        assert at.view.model_loads == 1
        at.world.write(at.world.only(), "Reloading weights inplace...")
        at.world.write(at.world.only(), "Reloading and processing weights took 1.00 seconds")
        await at.wait(10)
        assert at.view.model_loads == 2


async def test_a_log_that_may_not_be_read_does_not_make_a_start_hang():
    def silent(world: World) -> None:
        world.log_readable = False
        world.load_seconds = SETTINGS.quiet_deadline_seconds + 60

    async with scene_of(setting=silent) as at:
        await at.wait(SETTINGS.quiet_deadline_seconds + 80)
        assert at.view.state is LifecycleState.READY
        assert at.view.start_failures == {}


async def test_a_log_that_cannot_be_read_any_more_does_not_make_a_start_hang():
    def slow(world: World) -> None:
        world.load_seconds = SETTINGS.quiet_deadline_seconds + 60

    async with scene_of(setting=slow) as at:
        await at.wait(10)
        at.world.log_readable = False
        await at.wait(SETTINGS.quiet_deadline_seconds + 80)
        assert at.view.state is LifecycleState.READY
        assert at.view.start_failures == {}


async def test_a_log_that_falls_silent_while_loading_ends_the_start():
    def hangs(world: World) -> None:
        world.load_seconds = None

    async with scene_of(setting=hangs) as at:
        await at.wait(SETTINGS.quiet_deadline_seconds + 20)
        assert at.view.start_failures == {Cause.LOADING_HANGS: 1}
        assert at.view.diagnosis.evidence == "INFO Resolved architecture: Fake"


async def test_an_outage_of_docker_is_seen_at_once_where_its_events_are_cut():
    async with scene_of(setting=serving, health_interval_seconds=3600.0) as at:
        await at.wait(5)
        at.world.go_down()
        await at.wait(1)
        assert at.view.state is LifecycleState.UNKNOWN


@pytest.mark.parametrize("problem", [DockerProblem.PERMISSION_DENIED, DockerProblem.TIMEOUT])
async def test_every_way_of_docker_not_answering_is_unknown_and_logged_once(problem):
    async with scene_of(setting=serving) as at:
        await at.wait(5)
        at.world.go_down(problem)
        await at.wait(60)
        assert at.view.state is LifecycleState.UNKNOWN
        assert at.view.docker_problem is problem
        assert at.events("warning") == ["docker.failed"]
        assert at.counted.failures == 0


async def test_a_held_container_is_not_stopped_at_the_end_either(tmp_path):
    (tmp_path / "hold").touch()
    async with scene_of(setting=serving, on_shutdown="stop", hold_file=tmp_path / "hold") as at:
        await at.wait(5)
    await at.supervisor.shutdown()
    assert at.world.only().status is ContainerStatus.RUNNING


async def test_a_pull_can_be_cancelled_by_the_end_of_the_daemon():
    def no_image(world: World) -> None:
        world.images.clear()
        world.in_registry.add(IMAGE)
        world.pull_seconds = 3600.0

    async with scene_of(setting=no_image) as at:
        await at.wait(5)
        assert at.view.state is LifecycleState.PULLING
    assert at.world.images == set()


def made_by(instance: str | None):
    """A container that an exporter of that name made and keeps running."""

    def setting(world: World) -> None:
        world.load_seconds = 0.0
        world.start(world.create(launch(instance), {}))
        world.did.clear()

    return setting


async def test_a_container_of_another_exporter_is_left_alone_and_its_owner_named():
    async with scene_of(setting=made_by("a"), instance="b") as at:
        at.world.end(at.world.only(), 1)
        await at.wait(120)
        assert at.world.did == []
        assert at.view.state is LifecycleState.ABSENT
        assert at.view.diagnosis.cause is Cause.OTHER_EXPORTER
        assert "instance = 'a'" in at.view.diagnosis.evidence
        assert at.view.snapshot is None
        assert at.events("warning") == ["container.unhealthy"]
    await at.supervisor.shutdown()
    assert at.world.did == []


@pytest.mark.parametrize(("theirs", "mine"), [(None, "b"), ("b", "b"), ("b", None)])
async def test_a_container_of_this_exporter_or_of_an_earlier_release_is_taken_over(theirs, mine):
    async with scene_of(setting=made_by(theirs), instance=mine) as at:
        await at.wait(20)
        assert at.view.state is LifecycleState.READY
        assert at.view.config_drift is False, "who made it makes it no other container"
        assert at.world.did == []


async def test_two_exporters_with_other_names_of_containers_do_not_meet():
    async with scene_of(setting=made_by("a"), instance="b", name="vllm-mine") as at:
        await at.wait(60)
        assert at.view.state is LifecycleState.READY
        assert set(at.world.containers) == {"vllm-local", "vllm-mine"}
        assert {on for _, on in at.world.did} == {"vllm-mine"}
