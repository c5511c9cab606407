"""The daemon supervises a real container: each fault caused by hand, and what it does about it.

A stand-in for vLLM is in the container; test_real_container.py does the same with vLLM itself.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from datetime import datetime

import pytest
from container_case import FIRST_DELAY
from fault_table import Row, note
from supervised_daemon import supervised

pytestmark = pytest.mark.docker


def restarted(page, cause: str) -> bool:
    return page.count("vllm_container_restarts_total", reason=cause) == 1


async def test_a_container_is_created_and_becomes_ready(case):
    async with supervised(case.config()) as daemon:
        ready = await daemon.until_state("ready")
        assert daemon.states == ["creating", "starting", "ready"]
        assert ready.value("vllm_container_startup_seconds") > 0
        assert ready.count("vllm_container_restarts_total") == 0
        assert ready.value("vllm_container_exit_code") is None
        await daemon.until(
            "the load is counted", lambda page: page.value("vllm_container_model_loads_total") == 1
        )
        assert "Loading weights took" in json.dumps(daemon.logged("container.log"))
        assert await daemon.stop() == 0
    # By default an exporter that ends leaves the container as it is.
    assert case.inspect()["State"]["Running"]


async def test_a_daemon_that_was_killed_adopts_its_container_without_restarting_it(case):
    config = case.config()
    async with supervised(config) as daemon:
        await daemon.until_state("ready")
        before = case.inspect()
        await daemon.kill()
    async with supervised(config) as daemon:
        await daemon.until_state("ready")
        await asyncio.sleep(2)  # two further observations
        after = case.inspect()
        assert (after["Id"], after["State"]["StartedAt"]) == (
            before["Id"],
            before["State"]["StartedAt"],
        )
        assert daemon.states == ["ready"]
        assert daemon.now.count("vllm_container_restarts_total") == 0
        assert daemon.now.count("vllm_container_model_loads_total") == 0
        assert daemon.now.value("vllm_container_startup_seconds") is None


async def test_the_container_is_stopped_at_shutdown_if_the_settings_say_so(case):
    async with supervised(case.config(on_shutdown="stop")) as daemon:
        await daemon.until_state("ready")
        assert await daemon.stop() == 0
    assert not case.inspect()["State"]["Running"]


async def test_a_killed_container_is_noticed_and_started_again(case):
    async with supervised(case.config()) as daemon:
        await daemon.until_state("ready")
        fault = time.monotonic()
        case.api.kill(case.name)
        seen = await daemon.until("it is noticed", lambda page: page.state == "backing_off")
        assert seen.value("vllm_container_exit_code") == 137
        assert seen.cause == "killed"
        ready = await daemon.until_state("ready")
        assert restarted(ready, "killed")
        assert ready.cause is None
    note(
        Row(
            "container killed (stand-in)",
            seen.at - fault,
            "backing_off → starting → ready",
            "killed",
            'restarts_total{reason="killed"}, exit_code 137',
            ready.at - fault,
        )
    )


async def test_an_exit_with_code_0_is_a_failure_like_any_other(case):
    async with supervised(case.config()) as daemon:
        await daemon.until_state("ready")
        case.api.kill(case.name, signal="SIGTERM")  # the server exits with 0
        seen = await daemon.until("it is noticed", lambda page: page.state == "backing_off")
        assert seen.value("vllm_container_exit_code") == 0
        ready = await daemon.until_state("ready")
        assert ready.count("vllm_container_restarts_total") == 1


async def test_the_memory_limit_is_noticed_and_named(case):
    async with supervised(case.config(memory_limit="96m")) as daemon:
        await daemon.until_state("ready")
        fault = time.monotonic()
        await case.ask("/eat")
        seen = await daemon.until("it is noticed", lambda page: page.state == "backing_off")
        assert seen.cause == "oom_killed"
        assert seen.value("vllm_container_oom_kills_total") == 1
        ready = await daemon.until_state("ready")
        assert restarted(ready, "oom_killed")
    note(
        Row(
            "memory limit hit (stand-in)",
            seen.at - fault,
            "backing_off → starting → ready",
            "oom_killed",
            "oom_kills_total",
            ready.at - fault,
        )
    )


async def test_a_paused_container_is_noticed_and_after_its_deadline_let_go_on(case):
    deadline = 10
    async with supervised(case.config(paused_deadline_seconds=deadline)) as daemon:
        await daemon.until_state("ready")
        before = case.inspect()
        fault = time.monotonic()
        case.api.pause(case.name)
        seen = await daemon.until("it is noticed", lambda page: page.state == "unhealthy")
        assert seen.cause == "paused"
        ready = await daemon.until_state("ready", patience=120)
        after = case.inspect()
        assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
        assert ready.count("vllm_container_restarts_total") == 0
        assert ready.at - fault >= deadline
    note(
        Row(
            "container paused (stand-in)",
            seen.at - fault,
            "unhealthy, unpaused after its deadline → ready",
            seen.cause or "—",
            'state{state="unhealthy"}',
            ready.at - fault,
        )
    )


async def test_a_container_that_was_removed_by_hand_is_created_again(case):
    async with supervised(case.config()) as daemon:
        await daemon.until_state("ready")
        before = case.inspect()["Id"]
        fault = time.monotonic()
        case.api.remove_container(case.name, force=True)
        seen = await daemon.until("it is noticed", lambda page: page.state == "backing_off")
        ready = await daemon.until_state("ready")
        assert case.inspect()["Id"] != before
        assert seen.cause in {"removed", "killed"}  # killed: seen between the kill and the removal
        assert restarted(ready, seen.cause)
    note(
        Row(
            "container removed by hand (stand-in)",
            seen.at - fault,
            "backing_off → creating → starting → ready",
            seen.cause or "—",
            "restarts_total",
            ready.at - fault,
        )
    )


async def test_a_server_that_is_unhealthy_is_restarted(case):
    async with supervised(case.config()) as daemon:
        await daemon.until_state("ready")
        before = case.inspect()["State"]["StartedAt"]
        fault = time.monotonic()
        await case.ask("/fault?health=503")
        seen = await daemon.until("it is noticed", lambda page: page.state != "ready")
        ready = await daemon.until_state("ready")
        assert restarted(ready, "health_failed")
        assert ready.count("vllm_container_health_failures_total") >= 3
        assert case.inspect()["State"]["StartedAt"] != before
    note(
        Row(
            "/health says 503, three checks a second apart (stand-in)",
            seen.at - fault,
            "stopping → backing_off → starting → ready",
            "health_failed",
            'restarts_total{reason="health_failed"}, health_failures_total',
            ready.at - fault,
        )
    )


async def test_failed_probes_make_it_unhealthy_although_health_is_fine(case):
    async with supervised(case.config(probe_seconds=1)) as daemon:
        await daemon.until_state("ready")
        fault = time.monotonic()
        await case.ask("/fault?chat=500")
        seen = await daemon.until("it is noticed", lambda page: page.state != "ready")
        ready = await daemon.until_state("ready")
        assert restarted(ready, "probes_failed")
        assert ready.count("vllm_container_health_failures_total") == 0
    note(
        Row(
            "probes fail, /health says 200, a probe a second (stand-in)",
            seen.at - fault,
            "stopping → backing_off → starting → ready",
            "probes_failed",
            'restarts_total{reason="probes_failed"}',
            ready.at - fault,
        )
    )


async def test_a_crash_loop_waits_longer_each_time(case):
    crash = "raise SystemExit('vllm: error: unrecognized arguments: --no-such-flag')"
    begin = time.monotonic()
    async with supervised(case.config(command=["python3", "-c", crash])) as daemon:
        seen = await daemon.until("a cause is named", lambda page: page.cause is not None)
        assert seen.cause == "unrecognised_argument"
        await daemon.until(
            "three starts have failed",
            lambda page: page.count("vllm_container_start_failures_total") == 3,
        )
        started = [
            _when(line) for line in daemon.logged("container.action") if line["action"] == "start"
        ]
        assert started[1] - started[0] >= FIRST_DELAY
        assert started[2] - started[1] >= 2 * FIRST_DELAY
        assert "--no-such-flag" in json.dumps(daemon.logged("container.failed"))
    note(
        Row(
            "wrong flag (stand-in)",
            seen.at - begin,
            "backing_off, 2 s, 4 s, …",
            "unrecognised_argument",
            'start_failures_total{reason="unrecognised_argument"}',
            None,
        )
    )


def _when(line) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


async def test_a_start_without_the_gpu_toolkit_is_refused_with_cause_and_advice(case):
    begin = time.monotonic()
    async with supervised(case.config(gpus="all")) as daemon:
        seen = await daemon.until(
            "it is said", lambda page: page.cause is not None or page.state == "ready"
        )
        if seen.state == "ready":
            pytest.skip("this Docker Engine accepts a request for GPUs")
        assert seen.cause == "gpu_toolkit_missing"
        assert seen.count("vllm_container_start_failures_total", reason="gpu_toolkit_missing") == 1
        assert "NVIDIA Container Toolkit" in json.dumps(daemon.logged("container.action_refused"))
        await daemon.until_state("backing_off")
    note(
        Row(
            "no GPU toolkit (stand-in)",
            seen.at - begin,
            "creating → starting → backing_off",
            "gpu_toolkit_missing",
            'start_failures_total{reason="gpu_toolkit_missing"}',
            None,
        )
    )


async def test_an_image_that_cannot_be_pulled_is_named(case):
    begin = time.monotonic()
    async with supervised(case.config(image="registry.invalid/vce-test/none:1")) as daemon:
        seen = await daemon.until("it is said", lambda page: page.cause is not None)
        assert seen.cause == "registry_unreachable"
        await daemon.until_state("backing_off")
        assert seen.count("vllm_container_docker_up") == 1
    note(
        Row(
            "image absent, registry unreachable",
            seen.at - begin,
            "pulling → backing_off",
            "registry_unreachable",
            'start_failures_total{reason="registry_unreachable"}',
            None,
        )
    )


async def test_a_port_that_is_taken_is_named_and_used_once_it_is_free(case):
    with socket.create_server(("127.0.0.1", case.port)):
        begin = time.monotonic()
        async with supervised(case.config()) as daemon:
            seen = await daemon.until("it is said", lambda page: page.cause is not None)
            assert seen.cause == "port_taken"
            # The container that could not be started is used again, not left beside a new one.
            first = case.inspect()["Id"]
    async with supervised(case.config()) as daemon:
        await daemon.until_state("ready")
        assert case.inspect()["Id"] == first
    note(
        Row(
            "port taken (stand-in)",
            seen.at - begin,
            "creating → starting → backing_off",
            "port_taken",
            'start_failures_total{reason="port_taken"}',
            None,
        )
    )


async def test_a_docker_that_goes_away_and_comes_back_costs_nothing(case, unsteady):
    async with supervised(case.config(docker_host=unsteady.host)) as daemon:
        await daemon.until_state("ready")
        before = case.inspect()["State"]["StartedAt"]
        fault = time.monotonic()
        await unsteady.stop()
        gone = await daemon.until_state("unknown")
        assert gone.value("vllm_container_docker_up") == 0
        await asyncio.sleep(5)
        scrapes = "vllm_exporter_loop_last_run_timestamp_seconds"
        assert daemon.now.value(scrapes, loop=f"scrape:{case.name}") is not None
        back = time.monotonic()
        await unsteady.start()
        ready = await daemon.until_state("ready")
        assert case.inspect()["State"]["StartedAt"] == before
        assert ready.count("vllm_container_restarts_total") == 0
        assert daemon.states[-2:] == ["unknown", "ready"]
        assert len(daemon.logged("docker.failed")) == 1
        assert len(daemon.logged("docker.recovered")) == 1
    note(
        Row(
            "Docker's socket gone for 5 s (stand-in)",
            gone.at - fault,
            "unknown → ready",
            "—",
            "docker_up 0",
            ready.at - back,
        )
    )
