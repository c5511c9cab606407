"""The supervisor's loop on a Docker in memory and a clock that the test turns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from lifecycle_daemon import IMAGE, SETTINGS, launch, target
from supervisor_scene import STALLED, scene_of, session

from exporter.container.decide.records import (
    Cause,
    ContainerStatus,
    DockerError,
    DockerProblem,
    LifecycleState,
)
from exporter.container.supervisor_config import SupervisorConfig
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from fake_docker import World


async def test_from_nothing_to_ready_with_the_seconds_that_it_took():
    async with scene_of() as at:
        await at.wait(40)
        assert at.states() == [
            LifecycleState.CREATING,
            LifecycleState.STARTING,
            LifecycleState.READY,
        ]
        assert at.view.startup_seconds == pytest.approx(30, abs=6)
        assert at.view.model_loads == 1
        assert at.view.restarts == {}
        assert at.view.config_drift is False


async def test_a_missing_image_is_pulled_first_and_its_progress_is_published():
    def no_image(world: World) -> None:
        world.images.clear()
        world.in_registry.add(IMAGE)

    async with scene_of(setting=no_image) as at:
        await at.wait(40)
        assert at.states()[0] is LifecycleState.PULLING
        assert any(view.pull and view.pull.bytes_total == 100 for view in at.views)
        assert at.view.state is LifecycleState.READY
        assert at.view.pull is None


async def test_an_image_that_cannot_be_pulled_backs_off_and_says_why():
    async with scene_of(setting=lambda world: world.images.clear()) as at:
        await at.wait(60)
        assert at.view.state in {LifecycleState.BACKING_OFF, LifecycleState.PULLING}
        assert at.view.diagnosis.cause is Cause.IMAGE_NOT_FOUND
        assert at.view.start_failures[Cause.IMAGE_NOT_FOUND] >= 2
        assert at.view.next_attempt_time is None or at.view.next_attempt_time > 0


async def test_a_container_that_ends_with_code_0_is_a_failure_and_is_started_again():
    async with scene_of() as at:
        await at.wait(40)
        at.world.end(at.world.only(), 0)
        await at.wait(2)
        assert at.view.state is LifecycleState.BACKING_OFF
        assert at.view.diagnosis.cause is Cause.EXITED
        await at.wait(60)
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {Cause.EXITED: 1}
        assert at.view.model_loads == 2
        assert at.view.diagnosis is None


async def test_an_exit_is_noticed_at_once_by_dockers_events():
    async with scene_of(health_interval_seconds=3600.0) as at:
        at.world.load_seconds = 0.0
        await at.wait(2)
        at.world.end(at.world.only(), 137)
        await at.wait(2)
        assert at.view.diagnosis.cause is Cause.KILLED


async def test_the_memory_limit_is_counted_and_named():
    async with scene_of() as at:
        await at.wait(40)
        at.world.end(at.world.only(), 137, oom=True)
        await at.wait(2)
        assert at.view.diagnosis.cause is Cause.OOM_KILLED
        assert at.view.oom_kills == 1


async def test_a_wrong_flag_is_named_and_the_delays_grow():
    def crash(world: World) -> None:
        world.crash_after, world.crash_code = 1.0, 2
        world.extra_log = ("vllm: error: unrecognized arguments: --disable-log-requests",)

    async with scene_of(setting=crash) as at:
        await at.wait(120)
        assert at.view.diagnosis.cause is Cause.UNRECOGNISED_ARGUMENT
        assert "--disable-log-requests" in at.view.diagnosis.summary + at.view.diagnosis.evidence
        assert at.view.start_failures[Cause.UNRECOGNISED_ARGUMENT] >= 3
        starts = [on for call, on in at.world.did if call == "start"]
        assert 3 <= len(starts) <= 6


async def test_a_refused_start_has_its_cause_and_does_not_make_a_second_container():
    refused = DockerError(
        DockerProblem.GPU_DRIVER_MISSING,
        'could not select device driver "" with capabilities: [[gpu]]',
    )
    async with scene_of(setting=lambda world: world.refuse.update(start=refused)) as at:
        await at.wait(30)
        assert at.view.diagnosis.cause is Cause.GPU_TOOLKIT_MISSING
        assert [call for call, _ in at.world.did].count("create") == 1
        assert at.view.start_failures[Cause.GPU_TOOLKIT_MISSING] >= 1


async def test_failed_health_checks_restart_it_and_are_counted():
    async with scene_of() as at:
        await at.wait(40)
        at.world.only().unhealthy = True
        await at.wait(60)
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {Cause.HEALTH_FAILED: 1}
        assert at.view.health_failures >= SETTINGS.health_failures


async def test_failed_probes_restart_an_engine_whose_health_is_fine():
    async with scene_of() as at:
        await at.wait(40)
        for _ in range(SETTINGS.probe_failures):
            at.supervisor.session_finished(session(STALLED))
        await at.wait(60)
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {Cause.PROBES_FAILED: 1}


@pytest.mark.parametrize(
    "results",
    [
        [STALLED, STALLED, None, STALLED, STALLED],
        [Failure(FailureReason.UNAUTHORIZED, "key")] * 9,
        [Failure(FailureReason.OVERLOADED, "queue")] * 9,
    ],
)
async def test_probes_that_fail_now_and_then_or_for_another_reason_restart_nothing(results):
    async with scene_of() as at:
        await at.wait(40)
        for failure in results:
            at.supervisor.session_finished(session(failure))
        await at.wait(30)
        assert at.view.restarts == {}
        assert [call for call, _ in at.world.did].count("stop") == 0


async def test_probes_that_failed_while_it_was_loading_do_not_count_against_it():
    async with scene_of() as at:
        for _ in range(20):
            await at.wait(2)
            at.supervisor.session_finished(
                session(None if at.world.healthy() else Failure(FailureReason.STREAM_CUT, "cut"))
            )
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {}


async def test_docker_that_goes_away_makes_the_state_unknown_and_comes_back_by_itself():
    async with scene_of() as at:
        await at.wait(40)
        at.world.go_down()
        await at.wait(30)
        assert at.view.state is LifecycleState.UNKNOWN
        assert at.view.docker_problem is DockerProblem.UNREACHABLE
        assert at.view.snapshot is None
        at.world.down = None
        await at.wait(10)
        assert at.view.state is LifecycleState.READY
        assert at.view.restarts == {}
        assert at.events("warning") == ["docker.failed"]
        assert "docker.recovered" in at.events("info")


async def test_docker_that_fails_in_two_ways_in_turn_is_logged_once_for_each():
    async with scene_of() as at:
        await at.wait(40)
        for problem in [DockerProblem.UNREACHABLE, DockerProblem.TIMEOUT] * 3:
            at.world.go_down(problem)
            await at.wait(10)
        assert at.events("warning") == ["docker.failed", "docker.failed"]
        at.world.down = None
        await at.wait(10)
        at.world.go_down()
        await at.wait(30)
        assert at.events("warning") == ["docker.failed"] * 3


async def test_a_running_container_of_ours_is_adopted_without_a_restart():
    async with scene_of() as first:
        await first.wait(40)
    first.world.did.clear()
    async with scene_of(world=first.world) as second:
        await second.wait(20)
        assert second.view.state is LifecycleState.READY
        assert second.view.restarts == {}
        assert second.view.model_loads == 0, "the weights were read before this daemon began"
        assert second.view.startup_seconds is None
        assert second.world.did == []


async def test_changed_settings_are_reported_and_change_nothing_by_default():
    def other(world: World) -> None:
        world.create(launch(max_model_len=7), {})
        world.start(world.only().id)
        world.did.clear()

    async with scene_of(setting=other) as at:
        await at.wait(60)
        assert at.view.config_drift is True
        assert at.world.did == []
    async with scene_of(setting=other, on_drift="recreate") as at:
        await at.wait(120)
        assert at.view.config_drift is False
        assert [call for call, _ in at.world.did] == ["stop", "remove", "create", "start"]
        assert at.view.state is LifecycleState.READY


async def test_the_hold_file_stops_every_action(tmp_path):
    hold_file = tmp_path / "hold"
    hold_file.touch()
    async with scene_of(hold_file=hold_file) as at:
        await at.wait(30)
        assert at.view.state is LifecycleState.HELD
        assert at.world.did == []
        hold_file.unlink()
        await at.wait(60)
        assert at.view.state is LifecycleState.READY


async def test_an_attached_container_is_watched_and_left_alone():
    def theirs(world: World) -> None:
        world.create(replace(launch(), name="theirs", labels={"app": "vllm"}), {})
        world.start(world.only().id)
        world.did.clear()

    async with scene_of(setting=theirs, mode="attached", name=None, label="app=vllm") as at:
        await at.wait(40)
        assert at.view.state is LifecycleState.READY
        at.world.end(at.world.only(), 1)
        await at.wait(60)
        assert at.view.state is LifecycleState.UNHEALTHY
        assert at.world.did == []
        assert at.view.config_drift is None


async def test_an_unexpected_exception_ends_the_round_and_not_the_loop():
    async with scene_of() as at:
        await at.wait(40)
        find, broken = at.door.find, True

        async def find_or_not(label: str):
            if broken:
                raise ZeroDivisionError
            return await find(label)

        at.door.find = find_or_not
        await at.wait(12)
        assert at.counted.failures >= 1
        broken = False
        at.world.end(at.world.only(), 1)
        await at.wait(60)
        assert at.view.state is LifecycleState.READY


async def test_container_lines_are_in_the_log_at_debug_with_tokens_masked():
    async with scene_of() as at:
        await at.wait(40)
        at.world.write(at.world.only(), "using token hf_abcdefghijklmnopqrstuvwxyz012345")
        await at.wait(2)
        lines = [line["line"] for line in at.logged if line["event"] == "container.log"]
        assert "INFO Resolved architecture: Fake" in lines
        assert not any("hf_abcdef" in str(line) for line in lines)


@pytest.mark.parametrize(("on_shutdown", "status"), [("stop", "exited"), ("leave", "running")])
async def test_at_the_end_the_container_is_left_or_stopped_as_the_settings_say(on_shutdown, status):
    async with scene_of(on_shutdown=on_shutdown) as at:
        await at.wait(40)
    await at.supervisor.shutdown()
    assert at.world.only().status is ContainerStatus(status)
    again = [call for call, _ in at.world.did]
    assert again.count("start") == 1


async def test_at_the_end_the_container_is_removed_where_the_settings_say_so():
    async with scene_of(on_shutdown="remove") as at:
        await at.wait(40)
    await at.supervisor.shutdown()
    assert at.world.containers == {}
    assert [call for call, _ in at.world.did][-2:] == ["stop", "remove"]


async def test_a_container_that_ended_is_removed_without_another_stop():
    async with scene_of(restart="never", on_shutdown="remove") as at:
        await at.wait(40)
        at.world.end(at.world.only(), 1)
        await at.wait(2)
    await at.supervisor.shutdown()
    assert at.world.containers == {}
    assert "stop" not in [call for call, _ in at.world.did]


def test_the_supervisors_configuration_shows_no_secret_when_it_is_printed():
    config = SupervisorConfig(target(hf_token="hf_secret"))
    assert config.secrets == {"HF_TOKEN": "hf_secret"}
    assert "hf_secret" not in repr(config)


@pytest.mark.parametrize(
    ("entrypoint", "image", "begins"),
    [
        (("vllm", "serve"), "vllm:v0.11.0", ("m",)),
        (("/entrypoint.sh",), "vllm:v0.11.0", ("--model", "m")),
        (("python3", "-m", "vllm.entrypoints.openai.api_server"), "vllm:v1.0", ("--model", "m")),
    ],
)
async def test_a_container_is_created_with_the_command_that_its_image_accepts(
    entrypoint, image, begins
):
    def pulled(world: World) -> None:
        world.images.add(image)
        world.entrypoints[image] = entrypoint

    async with scene_of(setting=pulled, image=image) as at:
        await at.wait(40)
        (made,) = at.world.launched
        assert made.command[: len(begins)] == begins
        assert at.view.config_drift is False


async def test_a_command_from_the_settings_is_not_changed():
    def image(world: World) -> None:
        world.entrypoints[IMAGE] = ("python3", "-m", "vllm.entrypoints.openai.api_server")

    async with scene_of(setting=image, model=None, command=["serve"]) as at:
        await at.wait(40)
        assert [each.command for each in at.world.launched] == [("serve",)]


async def test_an_engine_that_loaded_another_model_is_diagnosed_while_it_serves():
    async with scene_of() as at:
        at.model = "Qwen/Qwen3-0.6B"
        await at.wait(60)
        assert at.view.state is LifecycleState.READY
        assert at.view.diagnosis.cause is Cause.WRONG_MODEL
        assert "Qwen/Qwen3-0.6B was loaded, not m" in at.view.diagnosis.evidence
        assert at.events("warning") == ["container.wrong_model"]


@pytest.mark.parametrize("loaded", ["m", None, "/somewhere/else"])
async def test_an_engine_that_loaded_its_model_or_does_not_say_has_no_diagnosis(loaded):
    async with scene_of() as at:
        at.model = loaded
        await at.wait(60)
        assert at.view.diagnosis is None
