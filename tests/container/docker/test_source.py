"""Containers found by their label on a real Docker Engine, and on one that fails."""

from __future__ import annotations

import json
import secrets

import pytest
from docker_steps import STUBBORN, kill, running
from unsteady_docker import Mood

from exporter.config import DockerDiscovery
from exporter.discovery.docker_labels import DockerSource
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure

pytestmark = pytest.mark.docker

SCRAPE = "io.vllm-cache-exporter.scrape"


@pytest.fixture
async def source_at(docker_host):
    made = []

    def make(host=docker_host, **settings) -> DockerSource:
        made.append(DockerSource(DockerDiscovery(docker_host=host, **settings)))
        return made[-1]

    yield make
    for source in made:
        await source.close()


def new_label() -> str:
    """A label that no other test gives."""
    return f"{SCRAPE}={secrets.token_hex(6)}"


def labels(mine: str, **said: str) -> dict[str, str]:
    key, _, value = mine.partition("=")
    return {key: value} | {f"{SCRAPE}.{name}": text for name, text in said.items()}


@pytest.fixture
def inspect(docker_api):
    """An independent look at a container."""
    return docker_api.inspect_container


async def test_a_container_is_found_where_docker_put_it(
    engine, launch_of, source_at, inspect, docker_network
):
    mine = new_label()
    facts = {"network": docker_network, "host_port": 0}
    good = await running(engine, launch_of(STUBBORN, labels=labels(mine, name="qwen"), **facts))
    launch = launch_of(STUBBORN, labels=labels(mine, port="web"), **facts)
    await running(engine, launch)
    look = await source_at(label=mine).query()
    seen = inspect(good)["NetworkSettings"]
    address = seen["Networks"][docker_network]["IPAddress"]
    assert [(each.name, each.base_url) for each in look.targets] == [
        ("qwen", f"http://{address}:8000")
    ]
    assert look.mistakes == {launch.name: f"label {SCRAPE}.port: must be a whole number"}

    published = await source_at(label=mine, address="published").query()
    (binding,) = seen["Ports"]["8000/tcp"]
    assert [each.base_url for each in published.targets] == [
        f"http://127.0.0.1:{binding['HostPort']}"
    ], json.dumps(seen["Ports"])


async def test_a_container_that_ended_is_there_still_only_where_it_is_watched(
    engine, launch_of, source_at
):
    mine = new_label()
    launch = launch_of(STUBBORN, labels=labels(mine))
    container = await running(engine, launch)
    external, attached = source_at(label=mine), source_at(label=mine, mode="attached")
    (target,) = (await attached.query()).targets
    assert target.container_name == launch.name
    await kill(engine, container)
    await engine.stop(container, 5)
    for source, still in ((external, frozenset()), (attached, {launch.name})):
        look = await source.query()
        assert (look.targets, look.unreachable, look.mistakes) == ((), still, {})
    await engine.remove(container)
    assert (await attached.query()).unreachable == frozenset()


async def failure(source) -> DiscoveryFailure:
    with pytest.raises(DiscoveryError) as caught:
        await source.query()
    assert caught.value.detail
    return caught.value.reason


async def test_docker_that_fails_is_reported_by_reason_and_recovers(
    engine, launch_of, source_at, unsteady
):
    mine = new_label()
    launch = launch_of(STUBBORN, labels=labels(mine))
    await running(engine, launch)
    source = source_at(unsteady.host, label=mine, docker_timeout_seconds=2)

    async def found() -> list[str]:
        return [each.name for each in (await source.query()).targets]

    assert await found() == [launch.name]
    await unsteady.stop()
    assert await failure(source) is DiscoveryFailure.UNREACHABLE
    await unsteady.start()
    assert await found() == [launch.name]
    unsteady.mood = Mood.HANGING
    assert await failure(source) is DiscoveryFailure.TIMEOUT
    unsteady.mood = Mood.BROKEN
    assert await failure(source) in {DiscoveryFailure.UNREACHABLE, DiscoveryFailure.API_ERROR}
    unsteady.mood = Mood.STEADY
    await unsteady.cut()
    assert await found() == [launch.name]
