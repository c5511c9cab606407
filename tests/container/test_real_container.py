"""The daemon supervises vLLM itself in a container: from nothing to ready, and back again.

The tests share one container, for each start of vLLM takes a minute: a daemon leaves it running
when it ends, and the next one adopts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import time
from contextlib import asynccontextmanager, suppress

import docker.errors
import pytest
from fault_table import Row, note
from supervised_daemon import free_port, supervised

pytestmark = [pytest.mark.docker, pytest.mark.vllm_image]

IMAGE = os.environ.get("TEST_VLLM_IMAGE", "vllm/vllm-openai:v0.32.0")
MODEL = os.environ.get("TEST_VLLM_IMAGE_MODEL", "/models/tiny")
START_SECONDS = 400.0  # on two cores that others use as well it takes 50 to 90
SIGNAL_ENGINE = (
    "import os, sys\n"
    "for process in filter(str.isdigit, os.listdir('/proc')):\n"
    "    with open(f'/proc/{process}/cmdline') as words:\n"
    "        if words.read().startswith('VLLM::EngineCore'):\n"
    "            os.kill(int(process), int(sys.argv[1]))\n"
    "            print('sent')\n"
)


class RealContainer:
    """The target's configuration, and the container that it describes."""

    def __init__(self, folder, docker_api, docker_host):
        self.name = f"vce-test-{secrets.token_hex(6)}"
        self.api = docker_api
        self._folder = folder
        self._host = docker_host
        self._port = free_port()

    def config(self, *args: str, **facts):
        """As in the daemon's file; `facts` are further lines of the container's section."""
        more = "\n".join(f"{key} = {json.dumps(value)}" for key, value in facts.items())
        file = self._folder / "exporter.toml"
        file.write_text(f"""
            probe.interval_seconds = 5
            probe.first_token_timeout_seconds = 5
            probe.tokens_per_hour = 0
            probe.max_cache_turnover_per_hour = 0
            scrape.interval_seconds = 3
            [[targets]]
            name = "{self.name}"
            mode = "managed"
            [targets.container]
            name = "{self.name}"
            docker_host = "{self._host}"
            image = "{IMAGE}"
            model = "{MODEL}"
            served_model_name = "tiny"
            max_model_len = 8192
            block_size = 32
            args = {json.dumps(["--dtype", "float32", "--enforce-eager", *args])}
            gpus = 0
            host_port = {self._port}
            shm_size = "1g"
            hf_cache = "none"
            vllm_cache = "none"
            {more}
            [targets.container.backoff]
            initial_seconds = 2
            jitter_ratio = 0
        """)
        return file

    def state(self):
        return self.api.inspect_container(self.name)["State"]

    def remove(self) -> None:
        with suppress(docker.errors.NotFound):
            self.api.remove_container(self.name, force=True, v=True)


@pytest.fixture(scope="module")
def vllm(docker_api, docker_host, missing, tmp_path_factory):
    try:
        docker_api.inspect_image(IMAGE)
    except docker.errors.ImageNotFound:
        missing(f"the image {IMAGE} is not here (TEST_VLLM_IMAGE, TEST_VLLM_IMAGE_MODEL)")
    container = RealContainer(tmp_path_factory.mktemp("real"), docker_api, docker_host)
    yield container
    container.remove()


@asynccontextmanager
async def ready(vllm, **facts):
    async with supervised(vllm.config(**facts)) as daemon:
        await daemon.until_state("ready", START_SECONDS)
        yield daemon


async def test_from_nothing_to_a_session_through_the_published_port(vllm):
    begin = time.monotonic()
    async with ready(vllm) as daemon:
        page = await daemon.until(
            "a session has been played",
            lambda page: (page.value("vllm_probe_turn_hit_ratio", turn="2") or 0) > 0.5,
            START_SECONDS,
        )
        assert daemon.states == ["creating", "starting", "ready"]
        assert page.value("vllm_container_startup_seconds") > 0
        assert page.count("vllm_container_restarts_total") == 0
        assert page.value("vllm_engine_up") == 1
        assert page.value("vllm_engine_info", version="0.32.0") == 1 or "v0.32.0" not in IMAGE
        await daemon.until(
            "the load is counted", lambda page: page.count("vllm_container_model_loads_total") == 1
        )
        assert await daemon.stop() == 0
    assert vllm.state()["Running"]
    note(
        Row(
            "from nothing to ready, then to a finished session",
            page.value("vllm_container_startup_seconds"),
            "creating → starting → ready",
            "—",
            "startup_seconds (left), probe_turn_hit_ratio (right)",
            page.at - begin,
        )
    )


async def test_a_daemon_that_was_killed_adopts_vllm_without_restarting_it(vllm):
    async with ready(vllm) as daemon:
        before = vllm.state()["StartedAt"]
        await daemon.kill()
    begin = time.monotonic()
    async with supervised(vllm.config()) as daemon:
        adopted = await daemon.until_state("ready", START_SECONDS)
        await daemon.until(
            "a session has been played",
            lambda page: (page.value("vllm_probe_turn_hit_ratio", turn="2") or 0) > 0.5,
            START_SECONDS,
        )
        assert daemon.states == ["ready"]
        assert daemon.now.count("vllm_container_restarts_total") == 0
        assert daemon.now.count("vllm_container_model_loads_total") == 0
    assert vllm.state()["StartedAt"] == before
    note(
        Row(
            "daemon killed with SIGKILL and started again",
            adopted.at - begin,
            "ready",
            "—",
            "restarts_total unchanged",
            adopted.at - begin,
        )
    )


async def test_a_paused_vllm_is_noticed_and_continues_after_the_deadline(vllm):
    async with ready(vllm, paused_deadline_seconds=8) as daemon:
        before = vllm.state()["StartedAt"]
        fault = time.monotonic()
        vllm.api.pause(vllm.name)
        seen = await daemon.until_state("unhealthy")
        assert seen.cause == "paused"
        again = await daemon.until_state("ready", START_SECONDS)
        assert again.count("vllm_container_restarts_total") == 0
    assert vllm.state()["StartedAt"] == before
    note(
        Row(
            "vLLM's container paused, for at most 8 s",
            seen.at - fault,
            "unhealthy, unpaused → ready",
            "paused",
            'state{state="unhealthy"}',
            again.at - fault,
        )
    )


async def test_a_hanging_engine_process_is_found_by_the_probes_though_health_says_200(vllm):
    async with ready(vllm, probe_failures=2, stop_grace_seconds=3) as daemon:
        await daemon.until("probes succeed", lambda page: page.value("vllm_probe_up") == 1)
        fault = time.monotonic()
        await asyncio.to_thread(signal_engine, vllm, signal.SIGSTOP)
        # The delay begins with the failure: it can be over when a busy machine has stopped it.
        down = await daemon.until(
            "it is stopped",
            lambda page: page.state in {"stopping", "backing_off", "starting"},
            START_SECONDS,
        )
        assert down.cause == "probes_failed"
        assert down.value("vllm_probe_up") == 0
        up = await daemon.until(
            "the restart is counted",
            lambda page: page.count("vllm_container_restarts_total", reason="probes_failed") == 1,
        )
    note(
        Row(
            "vLLM's engine process stopped (SIGSTOP): /health still says 200",
            down.at - fault,
            "unhealthy → stopping → backing_off → starting",
            "probes_failed",
            'restarts_total{reason="probes_failed"}',
            up.at - fault,
        )
    )


async def test_a_killed_engine_process_is_a_failure_although_the_exit_code_is_0(vllm):
    async with ready(vllm) as daemon:
        restarts = daemon.now.count("vllm_container_restarts_total")
        fault = time.monotonic()
        await asyncio.to_thread(signal_engine, vllm, signal.SIGKILL)
        seen = await daemon.until(
            "it is noticed", lambda page: page.state in {"unhealthy", "backing_off", "stopping"}
        )
        down = await daemon.until_state("backing_off")
        assert down.cause == "engine_core_died"
        assert down.value("vllm_container_exit_code") == 0
        again = await daemon.until_state("ready", START_SECONDS)
        assert again.count("vllm_container_restarts_total", reason="engine_core_died") == 1
        assert again.count("vllm_container_restarts_total") == restarts + 1
        await daemon.until(
            "sessions go on", lambda page: page.value("vllm_probe_up") == 1, START_SECONDS
        )
    note(
        Row(
            "vLLM's engine process killed inside the container: exit code 0",
            seen.at - fault,
            "backing_off → starting → ready",
            "engine_core_died",
            'restarts_total{reason="engine_core_died"}, exit_code 0',
            again.at - fault,
        )
    )


def signal_engine(vllm, number):
    command = ["python3", "-c", SIGNAL_ENGINE, str(int(number))]
    run = vllm.api.exec_create(vllm.name, command)
    assert "sent" in vllm.api.exec_start(run["Id"]).decode()


async def test_a_killed_container_is_started_again(vllm):
    async with ready(vllm) as daemon:
        before = vllm.state()["StartedAt"]
        fault = time.monotonic()
        with suppress(docker.errors.APIError):  # dockerd may not see its end in time
            vllm.api.kill(vllm.name)
        down = await daemon.until_state("backing_off")
        assert down.cause == "killed"
        assert down.value("vllm_container_exit_code") == 137
        up = await daemon.until_state("starting")
        await daemon.until(
            "the restart is counted",
            lambda page: page.count("vllm_container_restarts_total", reason="killed") == 1,
        )
        assert vllm.state()["StartedAt"] != before
    note(
        Row(
            "vLLM's container killed: exit code 137",
            down.at - fault,
            "backing_off → starting",
            "killed",
            'restarts_total{reason="killed"}, exit_code 137',
            up.at - fault,
        )
    )


async def test_a_vllm_that_was_removed_by_hand_is_created_again(vllm):
    async with supervised(vllm.config()) as daemon:
        await daemon.until("it is adopted", lambda page: page.state in {"starting", "ready"})
        before = vllm.api.inspect_container(vllm.name)["Id"]
        fault = time.monotonic()
        vllm.api.remove_container(vllm.name, force=True)
        down = await daemon.until_state("backing_off")
        assert down.cause in {"removed", "killed"}  # killed: seen between the kill and the removal
        up = await daemon.until_state("starting")
        assert vllm.api.inspect_container(vllm.name)["Id"] != before
    note(
        Row(
            "vLLM's container removed by hand",
            down.at - fault,
            "backing_off → creating → starting",
            down.cause,
            "restarts_total",
            up.at - fault,
        )
    )


async def test_a_vllm_that_outgrows_its_memory_limit_is_named(vllm):
    vllm.remove()
    begin = time.monotonic()
    async with supervised(vllm.config(memory_limit="600m")) as daemon:
        seen = await daemon.until("it is named", lambda page: page.cause is not None, START_SECONDS)
        assert seen.cause == "oom_killed"
        assert seen.value("vllm_container_oom_kills_total") == 1
    vllm.remove()
    note(
        Row(
            "vLLM in a container with too little memory (600 MB)",
            seen.at - begin,
            "starting → backing_off, growing delays",
            "oom_killed",
            "oom_kills_total",
            None,
        )
    )


async def test_a_flag_that_vllm_does_not_know_is_named_and_the_delays_grow(vllm):
    vllm.remove()
    begin = time.monotonic()
    async with supervised(vllm.config("--no-such-flag")) as daemon:
        seen = await daemon.until("it is named", lambda page: page.cause is not None, START_SECONDS)
        assert seen.cause == "unrecognised_argument"
        await daemon.until(
            "a second start has failed",
            lambda page: page.count("vllm_container_start_failures_total") == 2,
            START_SECONDS,
        )
        failures = daemon.logged("container.failed")
        assert all("--no-such-flag" in json.dumps(line) for line in failures)
        retry = daemon.now.value("vllm_container_next_attempt_timestamp_seconds")
        since = daemon.now.value("vllm_container_state_timestamp_seconds")
        # Twice the first delay, from the look on; the log was read for the diagnosis since then.
        assert 2 < retry - since <= 4.1
    vllm.remove()
    note(
        Row(
            "a flag that vLLM does not know",
            seen.at - begin,
            "starting → backing_off, 2 s, 4 s, …",
            "unrecognised_argument",
            'start_failures_total{reason="unrecognised_argument"}',
            None,
        )
    )
