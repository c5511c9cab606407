"""The users' share of an engine, by real loops and requests of simulated users."""

from __future__ import annotations

import asyncio

import aiohttp
from fleet_bench import shared, simulator, target

from exporter.simulator.faults import behaviours

USERS = "vllm_engine_users_"
PROBED = shared(
    interval_seconds=2.0,
    control_ratio=1.0,
    retention_gaps_seconds=(1.0,),
    retention_interval_seconds=60.0,
    isolation_interval_seconds=60.0,
)


async def ask(url: str, words: int) -> tuple[int, int]:
    """Send a user's request. Returns its prompt tokens and its cached tokens."""
    body = {
        "model": "simulated",
        "messages": [{"role": "user", "content": " ".join(f"word{n}" for n in range(words))}],
        "max_tokens": 1,
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        usage = (await answer.json())["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def users(bench, name):
    return bench.value(USERS + name, target="a")


async def everything_asked(bench):
    """Wait until sessions, cold controls, isolation and retention ran and were counted."""
    await bench.sessions_of("a", 3)
    await bench.until(
        "the salt test and retention",
        lambda: (
            bench.value("vllm_probe_isolation_tests_total", target="a")
            and bench.value("vllm_probe_retention_ratio", target="a") is not None
        ),
    )
    asked = bench.value("vllm_probe_queried_tokens_total", target="a")
    await bench.until(
        "a later reading at which nothing of the exporter's runs",
        lambda: bench.metrics.targets["a"].users._mark.own.queried_tokens >= asked,
    )


async def test_an_engine_that_gets_requests_only_from_the_exporter_has_no_users(bench):
    async with simulator() as engine:
        await bench.fleet.apply([target("a", engine.url)], PROBED)
        await everything_asked(bench)
        assert bench.value("vllm_probe_hit_tokens_total", target="a") > 10_000
        assert users(bench, "prefix_cache_queried_tokens_total") == 0
        assert users(bench, "prefix_cache_hit_tokens_total") == 0
        assert users(bench, "tokens_saved_total") == 0
        assert users(bench, "prefix_cache_hit_ratio") is None


async def test_users_get_exactly_their_own_share(bench):
    async with simulator(num_blocks=4096) as engine:
        await bench.fleet.apply([target("a", engine.url)], PROBED)
        await bench.until(
            "the beginning", lambda: users(bench, "prefix_cache_queried_tokens_total") == 0
        )
        told = [await ask(engine.url, words) for words in (300, 500, 700, 700)]
        queried, hit = (sum(column) for column in zip(*told, strict=True))
        assert 0 < hit < queried
        await everything_asked(bench)
        await bench.until(
            "the users' share",
            lambda: users(bench, "prefix_cache_queried_tokens_total") >= queried,
        )
        await asyncio.wait_for(everything_asked(bench), 30.0)
        assert users(bench, "prefix_cache_queried_tokens_total") == queried
        assert users(bench, "prefix_cache_hit_tokens_total") == hit
        assert users(bench, "tokens_saved_total") == hit
        ratio = bench.value(f"{USERS}prefix_cache_hit_ratio", target="a", window="1h")
        assert ratio == hit / queried


async def test_an_adapter_as_a_target_of_its_own_is_no_user_of_its_model(bench):
    async with simulator(num_blocks=4096) as engine:
        engine.inject(behaviours.ModelCard(kind="adapter"))
        both = [target("a", engine.url), target("b", engine.url, model="simulated-lora")]
        often, once = shared(interval_seconds=2.0), shared(interval_seconds=86400.0)
        await bench.fleet.apply(both, often)
        await bench.until(
            "the beginning", lambda: users(bench, "prefix_cache_queried_tokens_total") == 0
        )
        await bench.sessions_of("a", 2)
        await bench.sessions_of("b", 2)
        await bench.fleet.apply(both, once)  # so that nothing runs after one more session

        def asked(name):
            return bench.value("vllm_probe_queried_tokens_total", target=name)

        await bench.until(
            "a reading that contains all that both asked",
            lambda: bench.metrics.targets["a"].users._mark.own.queried_tokens == asked("a") > 0,
        )
        assert asked("a") == asked("b")
        assert users(bench, "prefix_cache_queried_tokens_total") == 0
