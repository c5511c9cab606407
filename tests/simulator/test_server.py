"""The simulator over HTTP: its banner, start and stop."""

from __future__ import annotations

import asyncio

import pytest
from sim_client import AT_ONCE, simulator, until

from exporter.errors import ConfigError
from exporter.simulator.server import Simulator, SimulatorSettings


async def test_it_says_plainly_that_it_is_simulated():
    async with simulator() as (_, client):
        assert await client.get("/version") == (200, {"version": "0.32.0", "simulated": True})
        _, models = await client.get("/v1/models")
        assert models["data"][0]["owned_by"] == "vllm-simulator"
        status, answer = await client.chat()
        assert status == 200
        assert "simulator" in answer["system_fingerprint"]


async def test_port_zero_picks_a_free_port_and_two_can_run_side_by_side():
    async with simulator() as (one, _), simulator() as (two, client):
        assert 0 < one.port != two.port > 0
        assert (await client.get("/health"))[0] == 200


async def test_a_taken_port_is_an_error_at_start():
    async with simulator() as (running, _):
        second = Simulator(SimulatorSettings(port=running.port))
        with pytest.raises(OSError, match="address already in use"):
            await second.start()


async def test_it_can_be_stopped_twice_and_without_a_start():
    running = Simulator(SimulatorSettings(**AT_ONCE))
    await running.stop()
    await running.start()
    await running.stop()
    await running.stop()


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        ({"num_blocks": 1}, "num_blocks"),
        ({"port": 70000}, "port"),
        ({"block_size": 0}, "block_size"),
        ({"model": ""}, "model"),
        ({"jitter_ratio": 1.0}, "jitter_ratio"),
        ({"time_scale": -1.0}, "time_scale"),
        ({"api_key": ""}, "api_key"),
    ],
)
def test_impossible_settings_are_refused_by_name(mistake, name):
    with pytest.raises(ConfigError, match=name):
        SimulatorSettings(**mistake)


def test_the_key_is_not_in_the_settings_text():
    assert "hidden" not in repr(SimulatorSettings(api_key="hidden"))


async def test_the_key_guards_v1_and_nothing_else():
    async with simulator(api_key="secret") as (_, client):
        refused = (401, {"error": "Unauthorized"})
        assert await client.get("/v1/models") == refused
        assert await client.chat() == refused
        wrong = {"Authorization": "Bearer Secret"}
        assert await client.get("/v1/models", headers=wrong) == refused
        right = {"Authorization": "Bearer secret"}
        assert (await client.get("/v1/models", headers=right))[0] == 200
        for path in ("/health", "/metrics", "/version", "/ping", "/load"):
            assert (await client.get(path))[0] == 200
        assert (await client.post("/tokenize", {"prompt": "a"}))[0] == 200


async def test_a_required_tool_is_called_whole_and_streamed():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    asked = {"tools": [tool], "tool_choice": "required", "max_tokens": 200}
    async with simulator() as (_, client):
        _, whole = await client.chat(**asked)
        choice = whole["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "look"
        events = await client.stream(**asked)
        finishes = [e["choices"][0]["finish_reason"] for e in events[:-2]]
        assert finishes[-1] == "tool_calls"
        deltas = [e["choices"][0]["delta"] for e in events[:-2]]
        calls = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
        assert calls[0] == {"name": "look"}
        ids = [number for e in events[1:-2] for number in e["choices"][0]["token_ids"]]
        assert len(ids) == events[-2]["usage"]["completion_tokens"]


async def test_without_a_tool_parser_auto_is_refused_and_none_is_not():
    tool = {"type": "function", "function": {"name": "look"}}
    async with simulator(enable_auto_tool_choice=False) as (_, client):
        assert (await client.chat(tools=[tool]))[0] == 400
        assert (await client.chat(tools=[tool], tool_choice="none"))[0] == 200


async def test_unsupported_requests_are_refused():
    async with simulator() as (_, client):
        for asked in ({"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"prompt_logprobs": 1}):
            assert (await client.chat(**asked))[0] == 400


async def test_a_prefix_cache_can_be_reset_in_development_mode_only():
    async with simulator() as (_, client):
        await client.chat()
        assert await client.post("/reset_prefix_cache", {}) == (200, {"success": True})
        _, answer = await client.chat()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    async with simulator(dev_mode=False) as (_, client):
        assert (await client.post("/reset_prefix_cache", {}))[0] == 404


async def test_each_rank_has_its_own_series_and_config():
    async with simulator(engine_ranks=3) as (_, client):
        await client.chat()
        _, page = await client.get("/metrics")
        for family in ("vllm:prefix_cache_queries_total", "vllm:cache_config_info"):
            lines = [line for line in page.splitlines() if line.startswith(family + "{")]
            assert sorted(f'engine="{n}"' in "".join(lines) for n in range(3)) == [True] * 3
            assert len(lines) == 3


async def test_stopping_ends_a_stream_with_abort_usage_and_done():
    slow = {"time_scale": 1.0, "decode_seconds_per_token": 0.005, "prefill_floor_seconds": 0.0}
    async with simulator(**slow) as (running, client):
        asked = asyncio.create_task(client.stream(max_tokens=5000, ignore_eos=True))
        await until(lambda: running.engine.ranks[0].cache.usage > 0)
        await running.stop()
        events = await asked
        assert events[-1] == "done"
        assert events[-2]["usage"]["prompt_tokens"] > 0
        assert events[-3]["choices"][0]["finish_reason"] == "abort"
        assert await client.refused()


async def test_a_client_that_disconnects_frees_its_request():
    async with simulator(time_scale=1.0) as (running, client):
        rank = running.engine.ranks[0]
        for streamed in (True, False):
            asked = client.stream if streamed else client.chat
            request = asyncio.create_task(asked(max_tokens=5000, ignore_eos=True))
            await until(lambda: rank.cache.usage > 0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            await until(lambda: rank.load == rank.cache.usage == 0)
