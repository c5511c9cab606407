"""What the daemon exports for servers with unusual /metrics (`simulate --like NAME`)."""

from __future__ import annotations

import pytest
from fleet_bench import shared, target

from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.faults import behaviours
from exporter.simulator.server import Simulator, SimulatorSettings

QUERIED = "vllm_engine_prefix_cache_queried_tokens_total"
HIT = "vllm_engine_prefix_cache_hit_tokens_total"


def like(name):
    return Simulator(settings_like(name, SimulatorSettings(port=0, time_scale=0.0)))


async def measured(bench, engine, sessions=2):
    await bench.fleet.apply([target("a", engine.url)], shared())
    await bench.sessions_of("a", sessions)


def value(bench, name, **labels):
    return bench.value(name, target="a", **labels)


async def test_recounted_lookups_are_in_no_figure_and_reported(bench):
    async with like("recounted-lookups") as engine:
        await measured(bench, engine)
        await bench.until("said", lambda: value(bench, "vllm_engine_lookups_recounted") == 1)
        queried, prompts = value(bench, QUERIED), value(bench, "vllm_engine_prompt_tokens_total")
        assert queried is None or queried <= 1.02 * prompts
        assert value(bench, "vllm_engine_tokens_saved_total") <= prompts


async def test_blocks_of_0_8_5_are_exported_as_tokens(bench):
    async with like("vllm-0.8.5") as engine:
        await measured(bench, engine)
        asked = value(bench, "vllm_probe_queried_tokens_total")
        await bench.until("all that was asked", lambda: value(bench, QUERIED) > 0.95 * asked)
        assert value(bench, QUERIED) % 16 == value(bench, HIT) % 16 == 0
        assert value(bench, QUERIED) <= value(bench, "vllm_engine_prompt_tokens_total")


@pytest.mark.parametrize("name", ["router", "old-router"])
async def test_a_router_exports_no_zeros_for_unknown_metrics_and_no_version(bench, name):
    async with like(name) as engine:
        await measured(bench, engine)
        assert value(bench, "vllm_engine_page_engines") == 2
        assert value(bench, QUERIED) is None, "nothing says whether it counts tokens or blocks"
        assert value(bench, "vllm_engine_info", version="") == 1
        assert value(bench, "vllm_probe_notice", notice="mixed") == 1


async def test_the_sum_of_merged_pages_stands_when_an_engine_leaves(bench):
    async with like("merged-pages") as engine:
        await measured(bench, engine)
        before = value(bench, QUERIED)
        assert before > 20_000
        engine.inject(behaviours.PodGone())
        await bench.until("one left", lambda: value(bench, "vllm_engine_page_engines") == 1)
        assert value(bench, QUERIED) >= before
        assert value(bench, "vllm_engine_restarts_total") == 0


@pytest.mark.parametrize(("name", "failed"), [("asleep", 0), ("paused", 1), ("paused-stream", 1)])
async def test_a_sleeping_engine_gets_no_requests(bench, name, failed):
    async with like(name) as engine:
        await bench.fleet.apply([target("a", engine.url)], shared())
        paused = "vllm_probe_paused"
        await bench.until("rests", lambda: value(bench, paused, reason="asleep") == 1)
        assert value(bench, "vllm_probe_sessions_total") == failed
        assert bench.metrics.targets["a"].own.requests == 0
