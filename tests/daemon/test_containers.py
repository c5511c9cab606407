"""What happens to a container when its target changes or is removed."""

from __future__ import annotations

import asyncio

import pytest
from fake_docker import FakeDoor, World
from fleet_bench import shared, simulator
from supervised_daemon import free_port
from yarl import URL

from exporter.clock import SystemClock
from exporter.config import Target
from exporter.container.decide.records import ContainerStatus

IMAGE = "vllm/vllm-openai:v0.32.0"


class Door(FakeDoor):
    """One of several doors to the same Docker Engine."""

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def world(monkeypatch) -> World:
    made = World(SystemClock())
    made.images.add(IMAGE)
    made.load_seconds = 0.1
    monkeypatch.setattr("exporter.container.docker.engine.DockerEngine", lambda *_args: Door(made))
    return made


def managed(url: str, *, more: dict[str, object] | None = None, **container: object) -> Target:
    options = {
        "model": "tiny",
        "image": IMAGE,
        "host_port": URL(url).port,
        "health_interval_seconds": 0.1,
        "on_shutdown": "stop",
        **container,
    }
    return Target(name="m", mode="managed", url=url, container=options, **(more or {}))


async def ready(bench) -> None:
    await bench.until(
        "the container is ready",
        lambda: bench.value("vllm_container_state", target="m", state="ready") == 1,
    )


@pytest.mark.parametrize(
    ("choice", "status"),
    [
        ("leave", ContainerStatus.RUNNING),
        ("stop", ContainerStatus.EXITED),
        ("remove", None),
    ],
)
async def test_the_container_of_a_removed_target_is_handled_as_its_settings_say(
    bench, engines, world, choice, status
):
    await bench.fleet.apply([managed(engines[0].url, on_shutdown=choice)])
    await ready(bench)
    await bench.fleet.apply([])
    left = list(world.containers.values())
    assert [each.status for each in left] == ([status] if status else [])
    assert bench.series_of("m") == []
    assert bench.loops() == set()


async def test_an_unrelated_change_keeps_a_container_and_its_supervision(bench, engines, world):
    url = engines[0].url
    await bench.fleet.apply([managed(url)])
    await ready(bench)
    task = bench.tasks["supervise:m"]
    changes = await bench.fleet.apply([managed(url, more={"watts": 300.0})])
    assert changes.changed == ("m",)
    assert bench.tasks["supervise:m"] is task
    assert not task.done()
    assert world.only().status is ContainerStatus.RUNNING
    assert ("stop", "vllm-m") not in world.did
    await bench.fleet.apply([])
    assert world.only().status is ContainerStatus.EXITED, "it is still looked after"


async def test_changed_container_settings_keep_it_running_with_its_counters(bench, engines, world):
    url = engines[0].url
    await bench.fleet.apply([managed(url)])
    await ready(bench)
    world.end(world.only(), 1)
    await bench.until(
        "it was started again",
        lambda: (bench.value("vllm_container_restarts_total", target="m") or 0) == 1,
    )
    await ready(bench)
    changes = await bench.fleet.apply([managed(url, on_shutdown="leave", health_failures=5)])
    assert changes.changed == ("m",)
    assert world.only().status is ContainerStatus.RUNNING
    await ready(bench)
    assert bench.value("vllm_container_restarts_total", target="m") == 1
    await bench.fleet.apply([])
    assert world.only().status is ContainerStatus.RUNNING, "as the later settings say"


async def test_a_replaced_container_is_handled_as_its_own_settings_say(bench, engines, world):
    url = engines[0].url
    await bench.fleet.apply([managed(url)])
    await ready(bench)
    await bench.fleet.apply([managed(url, name="another")])
    await bench.until(
        "the other one runs",
        lambda: (
            "another" in world.containers
            and world.containers["another"].status is ContainerStatus.RUNNING
        ),
    )
    assert world.did.index(("stop", "vllm-m")) < world.did.index(("start", "another"))


async def test_stopping_the_fleet_during_a_change_handles_every_container(bench, engines, world):
    """Stopping the first container takes long; the fleet stops meanwhile."""
    url = engines[0].url
    await bench.fleet.apply([managed(url)])
    await ready(bench)
    world.stop_seconds = 0.5
    change = asyncio.create_task(bench.fleet.apply([managed(url, name="another")]))
    await bench.until("the change has begun", lambda: bench.loops() == set())
    change.cancel()
    await asyncio.gather(change, return_exceptions=True)
    await bench.fleet.stop()
    await bench.fleet.close()
    assert bench.loops() == set()
    assert {each.status for each in world.containers.values()} == {ContainerStatus.EXITED}
    assert "another" not in world.containers, "nothing began after the end"


async def test_no_session_starts_before_the_container_is_ready(bench, world):
    world.chatty = False
    port = free_port()
    await bench.fleet.apply([managed(f"http://127.0.0.1:{port}")])
    await bench.until(
        "the container starts",
        lambda: bench.value("vllm_container_state", target="m", state="starting") == 1,
    )
    await bench.until(
        "its metrics were asked for in vain", lambda: bench.value("vllm_engine_up", target="m") == 0
    )
    async with simulator(port=port):
        await ready(bench)
        await bench.sessions_of("m", 1)
        assert not bench.value("vllm_probe_session_failures_total", target="m")
        await bench.fleet.apply([])


async def test_a_target_with_a_corrected_address_plays_a_session_at_once(bench, engines, world):
    wrong = f"http://127.0.0.1:{free_port()}"
    hourly = shared(interval_seconds=3600.0)
    await bench.fleet.apply([managed(wrong)], hourly)
    await bench.until(
        "the address is named",
        lambda: bench.value("vllm_container_diagnosis", target="m", reason="address") == 1,
    )
    assert [call for call, _ in world.did] == ["create", "start"]
    await bench.fleet.apply([managed(engines[0].url)], hourly)
    await bench.sessions_of("m", 1)
    assert bench.value("vllm_probe_up", target="m") == 1
    assert "stop" not in [call for call, _ in world.did]
