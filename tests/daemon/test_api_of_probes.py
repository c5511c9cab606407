"""The daemon probes over the API that `probe.api` names."""

from __future__ import annotations

import pytest
from fleet_bench import shared, simulator, target

from exporter.config import Target
from exporter.daemon.probing import engine_client
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.simulator import chat


@pytest.mark.parametrize("api", SURFACES)
async def test_the_client_of_a_target_speaks_the_api_of_the_setting(api):
    target = Target(name="t", url="http://127.0.0.1:9")
    async with engine_client(target, 1.0, api) as client:
        assert client.surface is SURFACES[api]
    async with engine_client(target, 1.0) as client:
        assert client.surface is SURFACES["chat_completions"]


@pytest.mark.parametrize("api", SURFACES)
async def test_all_that_a_target_is_asked_goes_over_the_api_and_is_no_users(
    bench, monkeypatch, api
):
    paths, play = set(), chat.play

    async def noted(engine, http, its_api):
        paths.add(http.path)
        return await play(engine, http, its_api)

    monkeypatch.setattr(chat, "play", noted)
    probed = shared(
        api=api,
        interval_seconds=1.0,
        control_ratio=1.0,
        retention_gaps_seconds=(1.0,),
        retention_interval_seconds=60.0,
        isolation_interval_seconds=60.0,
    )

    def value(name):
        return bench.value(name, target="a")

    async with simulator() as engine:
        await bench.fleet.apply([target("a", engine.url)], probed)
        await bench.sessions_of("a", 2)
        await bench.until(
            "the isolation test and retention",
            lambda: (
                value("vllm_probe_isolation_tests_total")
                and value("vllm_probe_retention_ratio") is not None
            ),
        )
        assert paths == {SURFACES[api].path}
        assert value("vllm_engine_users_prefix_cache_queried_tokens_total") == 0
        assert value("vllm_probe_hit_tokens_total") > 0
