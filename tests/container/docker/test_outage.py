"""A Docker Engine that is stopped for a while and started again, under the supervising daemon."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING

import docker
import pytest
from fault_table import Row, note
from supervised_daemon import fetch_here, supervised

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.docker

DOWN_SECONDS = float(os.environ.get("TEST_DOCKERD_DOWN_SECONDS", "10"))


def config(case, host: str) -> Path:
    """The network is that of the engine's own namespace, where the daemon is too."""
    return case.config(docker_host=host, network="host", host_port=8000)


def started_at(host: str) -> str:
    with closing(docker.APIClient(host, version="auto", timeout=60)) as api:
        [container] = api.containers(all=True)
        return api.inspect_container(container["Id"])["State"]["StartedAt"]


async def test_a_container_that_outlives_docker_is_found_as_it_was(private_dockerd, case):
    with private_dockerd("--live-restore") as engine:
        file = config(case, engine.host)
        fetch = engine.call_inside(fetch_here)
        async with supervised(file, prefix=engine.inside, fetch=fetch) as daemon:
            await daemon.until_state("ready")
            before = started_at(engine.host)
            fault = time.monotonic()
            await asyncio.to_thread(engine.stop)
            gone = await daemon.until_state("unknown")
            assert gone.value("vllm_container_docker_up") == 0
            scrapes = {scraped_at(page) for page in daemon.pages}
            await asyncio.sleep(DOWN_SECONDS)
            await daemon.until(
                "scrapes of vLLM's own metrics continue",
                lambda page: scraped_at(page) not in scrapes,
            )
            await asyncio.to_thread(engine.start)
            back = time.monotonic()
            ready = await daemon.until_state("ready")
            assert daemon.states == ["creating", "starting", "ready", "unknown", "ready"]
            assert ready.count("vllm_container_restarts_total") == 0
            assert ready.count("vllm_exporter_loop_failures_total") == 0
            assert started_at(engine.host) == before
            problems = [line["problem"] for line in daemon.logged("docker.failed")]
            assert "unreachable" in problems
            assert len(problems) == len(set(problems))
    note(
        Row(
            f"dockerd stopped for {DOWN_SECONDS:g} s, containers kept (live-restore)",
            gone.at - fault,
            "unknown → ready",
            "—",
            "docker_up 0, restarts_total unchanged",
            ready.at - back,
        )
    )


async def test_a_container_that_docker_took_with_it_is_started_again(private_dockerd, case):
    with private_dockerd() as engine:
        file = config(case, engine.host)
        fetch = engine.call_inside(fetch_here)
        async with supervised(file, prefix=engine.inside, fetch=fetch) as daemon:
            await daemon.until_state("ready")
            before = started_at(engine.host)
            fault = time.monotonic()
            await asyncio.to_thread(engine.stop)
            gone = await daemon.until_state("unknown")
            await asyncio.to_thread(engine.start)
            back = time.monotonic()
            known = await daemon.until("it observes", lambda page: page.state != "unknown")
            ready = await daemon.until_state("ready")
            assert ready.count("vllm_container_restarts_total") == 1
            assert started_at(engine.host) != before
    note(
        Row(
            "dockerd restarted, containers stopped with it",
            gone.at - fault,
            f"unknown → {known.state} ({known.at - back:.1f} s after its return) → ready",
            "—",
            "docker_up 0, restarts_total",
            ready.at - back,
        )
    )


def scraped_at(page) -> float | None:
    """When vLLM's metrics were read last; None on a page from before the first time."""
    name = "vllm_exporter_loop_last_run_timestamp_seconds"
    return next(
        (
            value
            for sample, labels, value in page.samples
            if sample == name and labels["loop"].startswith("scrape:")
        ),
        None,
    )
