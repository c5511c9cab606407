"""What the daemon exports for servers with unusual /metrics (`simulate --like NAME`)."""

from __future__ import annotations

import pytest
from fleet_bench import shared, target

from exporter.metrics.families.tables import TARGET_FAMILIES
from exporter.metrics.state.cost import Prices
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.faults import behaviours
from exporter.simulator.server import Simulator, SimulatorSettings

QUERIED = "vllm_engine_prefix_cache_queried_tokens_total"
HIT = "vllm_engine_prefix_cache_hit_tokens_total"
TESTED = shared(
    interval_seconds=2.0,
    control_ratio=1.0,
    isolation_interval_seconds=60.0,
)


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
        assert before > 10_000
        engine.inject(behaviours.PodGone())
        await bench.until("one left", lambda: value(bench, "vllm_engine_page_engines") == 1)
        assert value(bench, QUERIED) >= before
        assert value(bench, "vllm_engine_restarts_total") == 0


@pytest.mark.parametrize(("name", "failed"), [("asleep", 0), ("paused", 1), ("paused-stream", 1)])
async def test_a_sleeping_engine_gets_no_requests(bench, name, failed):
    async with like(name) as engine:
        await bench.fleet.apply([target("a", engine.url)], shared())
        paused, why = "vllm_probe_paused", "asleep" if name == "asleep" else "paused"
        await bench.until("rests", lambda: value(bench, paused, reason=why) == 1)
        assert value(bench, "vllm_probe_sessions_total") == failed
        assert bench.metrics.targets["a"].own.requests == 0


# Tiers and transfers


def of_savings(bench):
    """All families that say what a cache saved, of all traffic and of users."""
    names = [each.name for each in TARGET_FAMILIES if each.kind == "counter"]
    return {
        name: value(bench, name, **({"currency": "EUR"} if "cost" in name else {}))
        for name in names
        if "saved" in name
    }


@pytest.mark.parametrize("version", ["0.32.0", "0.31.0"])
@pytest.mark.parametrize("name", ["pd-decode", "pd-decode-all"])
async def test_a_decode_node_has_no_hit_no_leak_and_no_saving(bench, name, version):
    """Before 0.32 /metrics does not say that the tokens were transferred: sessions find it."""
    given = SimulatorSettings(port=0, time_scale=0.0, version=version)
    async with Simulator(settings_like(name, given)) as engine:
        await bench.fleet.apply([target("a", engine.url)], TESTED)
        bench.metrics.targets["a"].cost.prices = Prices(2.5, "EUR", 400.0)
        await bench.sessions_of("a", 2)
        asked = "vllm_probe_queried_tokens_total"
        await bench.until("counted", lambda: value(bench, QUERIED) > 0.9 * value(bench, asked))
        assert value(bench, "vllm_probe_notice", notice="transfer") == 1
        for one in ("engine_external_hit_tokens", "probe_hit_tokens", "probe_cached_tokens"):
            assert value(bench, f"vllm_{one}_total") is None
        assert value(bench, "vllm_probe_isolation_leaks_total") == 0
        assert value(bench, "vllm_engine_effective_hit_ratio", window="1h") is None
        assert value(bench, "vllm_engine_users_effective_hit_ratio", window="1h") is None
        assert set(of_savings(bench).values()) == {None}
        source = "p2p" if version == "0.32.0" else "external_kv_transfer"
        assert value(bench, "vllm_engine_cached_tokens_total", source=source) > 10_000


async def test_what_a_store_served_is_a_hit_and_saves_nothing(bench):
    async with like("external-chunks") as engine:
        await bench.fleet.apply([target("a", engine.url)], shared(interval_seconds=2.0))
        bench.metrics.targets["a"].cost.prices = Prices(2.5, "EUR", 400.0)
        await bench.sessions_of("a", 2)
        for _ in range(2):
            engine.engine.reset_prefix_cache()
            await bench.sessions_of("a", 1 + value(bench, "vllm_probe_sessions_total"))
        external = "vllm_engine_external_hit_tokens_total"
        await bench.until("a hit of the store", lambda: value(bench, external) > 0)
        saved = value(bench, "vllm_engine_tokens_saved_total")
        assert saved == value(bench, HIT)
        assert saved == value(bench, "vllm_engine_cached_tokens_total", source="device")
        ratio = value(bench, "vllm_engine_effective_hit_ratio", window="1h")
        assert ratio > value(bench, "vllm_engine_prefix_cache_hit_ratio", window="1h")
