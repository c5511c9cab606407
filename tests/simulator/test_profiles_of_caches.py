"""`simulate --like NAME`: what the cache of each kind of engine serves."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import pytest
from profiled_server import ASKED, LONG, cached_of, like, usage_of
from sim_client import AT_ONCE, HELLO, Client

from exporter.simulator.engine_kinds.sizes import cache_size
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.faults.faults import ActiveFaults
from exporter.simulator.metrics import cache_config_labels
from exporter.simulator.releases.ages import Age
from exporter.simulator.server import Simulator, SimulatorSettings
from exporter.simulator.text import tokens


@pytest.mark.parametrize(
    ("name", "unit", "dropped"),
    [("eagle", 16, 1), ("eagle-hybrid", 528, 1), ("hybrid-528", 528, 0), ("label-4", 256, 0)],
)
async def test_hits_are_multiples_of_the_unit_without_dropped_units(name, unit, dropped):
    async with like(name) as (_, client):
        prompt = (await usage_of(client))["prompt_tokens"]
        assert await cached_of(client) == max(0, (prompt - 1) // unit - dropped) * unit > 0
        assert await client.metric("vllm:prefix_cache_hits_total") == await cached_of(client)
        drafts = await client.metric("vllm:spec_decode_num_drafts_total")
        assert (drafts is not None) == bool(dropped)


# Recorded on real engines: longest request 8192, step 2048, and the labels of /metrics.
RECORDED_SIZES = {
    "plain": (32, {}, "16384", "524288", "None"),
    "sliding-window": (32, {}, "16384", "1838599", "256"),
    "gemma3": (32, {}, "32768", "432263", "None"),
    "gemma4": (32, {}, "32768", "731431", "None"),
    "qwen3-next": (256, {"mamba_cache_mode": "align"}, "8192", "1766022", "None"),
    "qwen3-next-32": (256, {"prefix_match_unit": "32"}, "8192", "1766022", "None"),
}


@pytest.mark.parametrize("name", RECORDED_SIZES)
def test_the_size_in_tokens_has_the_real_relation_to_the_blocks(name):
    block, more, blocks, tokens, window = RECORDED_SIZES[name]
    given = settings_like(
        name, SimulatorSettings(block_size=block, max_num_batched_tokens=2048, max_model_len=8192)
    )
    active = ActiveFaults()
    for one in given.behaviours:
        active.set(one)
    held = -(-int(tokens) // given.block_size)
    size = cache_size(given, active, held, 8192)
    assert abs(size.num_blocks - int(blocks)) <= 1
    assert abs(size.tokens / int(tokens) - 1) < 0.001
    labels = cache_config_labels(Age(), size, max_model_len=8192, caching=True)
    assert (labels["block_size"], labels["sliding_window"]) == (str(block), window)
    assert more.items() <= labels.items()


async def test_the_counters_of_drafts_have_a_position_for_each_draft_token():
    for name, count in (("eagle", 3), ("ngram", 5), ("plain", 0)):
        async with like(name) as (_, client):
            _, page = await client.get("/metrics")
            found = re.findall(r'accepted_tokens_per_pos_total\{.*position="(\d+)"', page)
            assert found == [str(position) for position in range(count)]


async def test_two_api_servers_show_no_start_time():
    async with like("api2") as (_, client):
        assert await client.metric("process_start_time_seconds") is None
        assert await client.metric("vllm:prompt_tokens_total") == 0


async def test_ranks_have_caches_of_their_own_and_a_header_pins_one():
    async with like("dp2") as (_, client):
        assert [await cached_of(client) > 0 for _ in range(4)] == [False, False, True, True]
        _, page = await client.get("/metrics")
        assert re.findall(r'cache_config_info\{.*num_gpu_blocks="(\d+)"', page) == ["4096"] * 2
        assert re.findall(r'kv_cache_size_tokens="(\d+)"', page) == [str(2048 * 16)] * 2
        client.session.headers["X-data-parallel-rank"] = "1"
        pinned = [await cached_of(client, cache_salt="another") > 0 for _ in range(4)]
        assert pinned == [False, True, True, True]


@pytest.mark.parametrize(("name", "chunk"), [("external", None), ("external-chunks", 256)])
async def test_an_external_store_ignores_salts_and_outlives_the_process(name, chunk):
    async with like(name) as (running, client):
        used = await usage_of(client, cache_salt="one")
        prompt = used["prompt_tokens"]
        whole = (prompt - 1) // 16 * 16
        external = (prompt - 1) // chunk * chunk if chunk else whole
        assert await cached_of(client, cache_salt="two") == external
        assert await client.metric("vllm:prefix_cache_hits_total") == 0
        assert await client.metric("vllm:external_prefix_cache_hits_total") == external
        assert await cached_of(client, cache_salt="two") == whole, "its own cache has more"
        longer = [*LONG, {"role": "user", "content": "something new"}]
        assert await cached_of(client, messages=longer, cache_salt="three") == (
            external if chunk else 0
        )
        await running.engine.restart()
        assert await cached_of(client, cache_salt="four") == external


async def test_a_model_without_a_chat_template_refuses_every_chat():
    async with like("no-template") as (_, client):
        for path in ("/v1/chat/completions", "/tokenize"):
            status, answer = await client.post(path, {"messages": HELLO})
            assert status == 400
            assert "default chat template is no longer allowed" in answer["error"]["message"]


async def test_a_template_can_begin_with_a_token():
    async with like("bos") as (_, client):
        ((first, *_),) = [(await client.stream())[0]["prompt_token_ids"]]
        assert first == tokens.START


async def test_labels_can_show_other_sizes_than_the_hits():
    for name, label in (("hybrid-528", 16), ("label-4", 4)):
        async with like(name) as (_, client):
            _, page = await client.get("/metrics")
            (labels,) = re.findall(r"vllm:cache_config_info\{(.*)\}", page)
            known = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            assert known["block_size"] == str(label)
            assert known["kv_cache_size_tokens"] == str(2048 * 16)
            assert int(known["num_gpu_blocks"]) * label != 2048 * 16


async def test_answers_are_not_kept_with_sliding_windows():
    async with like("sliding-window") as (_, client):
        events = await client.stream(**ASKED)
        used = next(event["usage"] for event in events if "usage" in event)
        text = "".join(e["choices"][0]["delta"]["content"] for e in events[:-2])
        history = [*LONG, {"role": "assistant", "content": text}, {"role": "user", "content": "?"}]
        assert await cached_of(client, messages=history) == (used["prompt_tokens"] - 1) // 16 * 16


async def test_a_prompt_hits_only_the_third_time():
    async with like("late-hits") as (_, client):
        cached = [await cached_of(client) for _ in range(4)]
    assert cached[:2] == [0, 0]
    assert cached[2] == cached[3] > 1000


@pytest.mark.parametrize(("name", "less"), [("pd-decode", 1), ("pd-decode-all", 0)])
async def test_a_decode_node_counts_transferred_tokens_as_cached(name, less):
    async with like(name) as (_, client):
        for salt in ("one", "two"):
            used = await usage_of(client, cache_salt=salt)
            cached = used["prompt_tokens_details"]["cached_tokens"]
            assert cached == used["prompt_tokens"] - less
        assert await client.metric("vllm:prefix_cache_hits_total") == 0
        assert await client.metric("vllm:external_prefix_cache_hits_total") == 2 * cached
        assert await client.metric("vllm:prompt_tokens_cached_total") == 2 * cached


# Releases


@pytest.mark.parametrize("name", ["vllm-0.9.2", "vllm-0.10.2", "vllm-0.17.1", "vllm-0.22.1"])
async def test_a_hit_of_0_is_left_out_of_usage(name):
    async with like(name) as (_, client):
        assert "prompt_tokens_details" not in await usage_of(client)
        assert await cached_of(client) > 1000
        assert "prompt_tokens_details" not in await usage_of(client, cache_salt="another")


async def test_a_v0_engine_refuses_the_salt_and_repeats_the_request():
    async with like("vllm-0.9.2-v0") as (_, client):
        status, answer = await client.chat(cache_salt="one")
        assert status == 400
        assert "Parameter 'cache_salt' is not supported" in answer["message"]
        assert HELLO[0]["content"] in answer["message"]
        assert (await client.chat())[0] == 200


@pytest.mark.parametrize("name", ["vllm-0.8.5", "vllm-0.8.5-v0"])
async def test_the_oldest_release_ignores_salts_and_v1_counts_blocks(name):
    async with like(name) as (_, client):
        prompt = (await usage_of(client, cache_salt="one"))["prompt_tokens"]
        again = await usage_of(client, cache_salt="two")
        queried = await client.metric("vllm:gpu_prefix_cache_queries_total")
        hit = await client.metric("vllm:gpu_prefix_cache_hits_total")
        if name == "vllm-0.8.5":
            assert "prompt_tokens_details" not in again
            assert (queried, hit) == (2 * (prompt // 16), (prompt - 1) // 16)
        else:
            assert again["prompt_tokens_details"]["cached_tokens"] == (prompt - 1) // 16 * 16
            assert (queried, hit) == (None, None)


async def test_tools_are_left_out_of_the_chat_and_counted_by_tokenize():
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    for name, equal in (("vllm-0.9.2", False), ("vllm-0.8.5", True), ("vllm-0.10.2", True)):
        async with like(name) as (_, client):
            _, counted = await client.post("/tokenize", {"messages": HELLO, "tools": tools})
            used = await usage_of(client, messages=HELLO, tools=tools, tool_choice="none")
            assert (counted["count"] == used["prompt_tokens"]) is equal


async def test_a_waiting_request_is_looked_up_again_at_each_step_before_0_27():
    async def queried(version):
        settings = SimulatorSettings(**AT_ONCE, version=version, num_blocks=150, max_model_len=2000)
        async with aiohttp.ClientSession() as session, Simulator(settings) as running:
            client = Client(session, running.url)
            asked = {"messages": [{"role": "user", "content": "one more word " * 300}]}
            both = [
                client.stream(**asked, max_tokens=200, ignore_eos=True, cache_salt=salt)
                for salt in "ab"
            ]
            await asyncio.gather(*both)
            return (
                await client.metric("vllm:prefix_cache_queries_total"),
                await client.metric("vllm:prompt_tokens_total"),
            )

    counted, prompt = await queried("0.26.0")
    assert counted > 20 * prompt
    counted, prompt = await queried("0.27.1")
    assert counted == prompt
