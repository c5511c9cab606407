"""The whole daemon with an API server of Kubernetes: pods come, fail, move and go."""

from __future__ import annotations

import pytest
from discovering_daemon import OFTEN, engines_at, running
from fake_kubernetes import FakeKubernetes, pod_object
from structlog.testing import capture_logs

from exporter.config import Settings


@pytest.fixture
async def cluster():
    async with FakeKubernetes() as at:
        yield at


def settings_of(cluster: FakeKubernetes, port: int) -> Settings:
    source = {
        "namespaces": ["vllm"],
        "api_url": cluster.url,
        "port": port,
        "refresh_seconds": 1,
        "gone_after_seconds": 0,
    }
    return Settings(**OFTEN, discovery={"kubernetes": [source]})


async def measured(at, **pods: float) -> None:
    wanted = {f"vllm.{name}": value for name, value in pods.items()}

    async def so() -> bool:
        return await at.values("vllm_probe_up") == wanted == await at.values("vllm_engine_up")

    await at.until(f"{pods} are measured", so)


async def test_pods_are_measured_from_their_start_to_their_deletion(cluster):
    async with engines_at("127.0.0.2", "127.0.0.3", "127.0.0.4") as port:
        await cluster.put(pod_object("a"))
        async with running(settings_of(cluster, port)) as at:
            await measured(at, a=1)
            await cluster.put(pod_object("b", ip="127.0.0.3"))
            await measured(at, a=1, b=1)
            # A pod that crashes keeps its address and its object: it is down, not forgotten.
            await cluster.put(pod_object("b", ip="127.0.0.9", ready=False))
            await measured(at, a=1, b=0)
            await cluster.put(pod_object("b", ip="127.0.0.3", terminating=True))
            await measured(at, a=1)
            await cluster.delete("b")
            await cluster.put(pod_object("b", ip="127.0.0.4"))
            await measured(at, a=1, b=1)
            targets = await at.values("vllm_exporter_discovery_targets", "source")
            assert targets == {"kubernetes:kubernetes": 2}


async def test_without_the_api_all_targets_stay_and_the_failures_are_counted(cluster):
    async with engines_at("127.0.0.2") as port:
        await cluster.put(pod_object("a"))
        async with running(settings_of(cluster, port)) as at:
            await measured(at, a=1)
            await cluster.stop()

            async def failed() -> bool:
                name = "vllm_exporter_discovery_failures_total"
                return (await at.values(name, "reason"))["unreachable"] >= 1

            await at.until("a query failed", failed)
            await measured(at, a=1)
            await cluster.delete("a")
            await cluster.start()
            await measured(at)


async def test_a_pod_with_a_mistake_is_logged_as_a_pod_and_counted(cluster):
    wrong = pod_object("b", annotations={"io.vllm-cache-exporter.scrape.port": "none"})
    async with engines_at("127.0.0.2") as port:
        for each in (pod_object("a"), wrong):
            await cluster.put(each)
        with capture_logs() as logs:
            async with running(settings_of(cluster, port)) as at:
                await measured(at, a=1)
                name = "vllm_exporter_discovery_left_out_targets"
                assert (await at.values(name, "reason"))["mistake"] == 1
    (line,) = [each for each in logs if each["event"] == "discovery.left_out"]
    assert line["pod"] == "vllm/b"
    assert 'no container has a port with the name "none"' in line["mistake"]
