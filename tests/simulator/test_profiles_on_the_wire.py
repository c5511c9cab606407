"""`simulate --like NAME`: what each kind of server and gateway answers."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import pytest
from profiled_server import ASKED, cached_of, like, usage_of
from sim_client import AT_ONCE, HELLO, Client, until

from exporter.simulator.faults import behaviours
from exporter.simulator.server import Simulator, SimulatorSettings

# What usage reports


async def test_a_gateway_removes_empty_fields():
    async with like("omits-empty") as (_, client):
        events = await client.stream(**ASKED)
        used = next(event["usage"] for event in events if "usage" in event)
        assert "cached_tokens" not in used["prompt_tokens_details"]
        assert "index" not in events[0]["choices"][0]
        assert await cached_of(client) > 1000


async def test_cached_tokens_are_rewritten_and_the_counters_are_not():
    async with like("rewrites-cached") as (_, client):
        assert [await cached_of(client) for _ in range(2)] == [0, 0]
        assert await client.metric("vllm:prefix_cache_hits_total") > 1000
        own = 2 * (await usage_of(client))["prompt_tokens"]
        assert await client.metric("vllm:prefix_cache_queries_total") > own, "others are there too"


async def test_usage_is_odd_in_three_ways():
    async with like("no-prompt-tokens") as (_, client):
        assert set(await usage_of(client)) == {
            *("total_tokens", "completion_tokens", "prompt_tokens_details"),
        }
    async with like("empty-usage") as (_, client):
        assert await usage_of(client) == {}
    async with like("odd-usage-once") as (_, client):
        used = await usage_of(client)
        assert used["prompt_tokens_details"]["cached_tokens"] == used["prompt_tokens"] + 1
        assert await cached_of(client) < used["prompt_tokens"]


async def test_tokens_removed_by_a_parser_count_but_are_in_no_chunk():
    async with like("swallows-ids") as (_, client):
        events = await client.stream(**ASKED)
        used = next(event["usage"] for event in events if "usage" in event)
        ids = [number for e in events[1:-2] for number in e["choices"][0]["token_ids"]]
        assert len(ids) == used["completion_tokens"] - 2 == 38
        _, whole = await client.chat(**ASKED, return_token_ids=True)
        assert len(whole["choices"][0]["token_ids"]) == 40
        text = "".join(e["choices"][0]["delta"]["content"] for e in events[:-2])
        assert whole["choices"][0]["message"]["content"] == text


async def test_an_answer_may_be_all_reasoning():
    settings = SimulatorSettings(**AT_ONCE, behaviours=(behaviours.AllReasoning(),))
    async with aiohttp.ClientSession() as session, Simulator(settings) as running:
        client = Client(session, running.url)
        events = await client.stream(max_tokens=6)
        deltas = [event["choices"][0]["delta"] for event in events[1:-2]]
        assert all(set(delta) == {"reasoning"} for delta in deltas)
        assert events[-3]["choices"][0]["finish_reason"] == "length"
        _, whole = await client.chat(max_tokens=6)
        message = whole["choices"][0]["message"]
        assert (message["content"], bool(message["reasoning"])) == (None, True)


# What is refused


async def test_a_strict_gateway_refuses_one_field_at_a_time():
    async with like("strict-gateway") as (_, client):
        for name in ("cache_salt", "return_token_ids"):
            status, answer = await client.chat(**{name: "x"})
            assert (status, answer["error"]["param"]) == (400, name)
        assert (await client.chat(tools=[], stop=None, seed=1))[0] == 400, "vLLM's own refusal"
        assert (await client.chat(seed=1))[0] == 200


async def test_a_gateway_refuses_stream_options_and_sends_no_usage():
    async with like("no-stream-options") as (_, client):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        status, answer = await client.chat(**options)
        assert (status, answer["error"]["param"]) == (400, "stream_options")
        async with client.session.post(
            client.url + "/v1/chat/completions", json={"messages": HELLO, "stream": True}
        ) as response:
            assert '"usage"' not in await response.text()


async def test_a_template_refuses_the_system_role_in_the_chat_and_in_tokenize():
    async with like("no-system-role") as (_, client):
        refused = {"messages": HELLO}
        for path in ("/v1/chat/completions", "/tokenize"):
            status, answer = await client.post(path, refused)
            assert (status, answer["error"]["message"]) == (400, "System role not supported")
        assert (await client.chat(messages=HELLO[1:]))[0] == 200


async def test_a_clock_in_the_template_changes_every_prompt():
    async with like("clock-in-template") as (_, client):
        prompts = [(await client.stream())[0]["prompt_token_ids"] for _ in range(2)]
        assert prompts[0] != prompts[1]
        assert await cached_of(client) == await cached_of(client) == 0


# States, pages


async def test_requests_to_a_sleeping_engine_wait_until_it_wakes():
    async with like("asleep") as (running, client):
        asked = asyncio.create_task(client.chat())
        await until(lambda: running.engine.ranks[0].load == 4)
        assert (await client.get("/health"))[0] == 200
        states = {
            state: await client.metric(
                f'vllm:engine_sleep_state{{engine="0",model_name="tiny",sleep_state="{state}"}}'
            )
            for state in ("awake", "weights_offloaded", "discard_all")
        }
        assert states == {"awake": 0, "weights_offloaded": 1, "discard_all": 0}
        assert await client.metric("vllm:num_requests_waiting{") == 1
        await client.delete("/faults/asleep")
        assert (await asked)[0] == 200


async def test_an_engine_is_put_to_sleep_and_paused_as_vllm_is():
    async with like("vllm-0.22.1") as (_, client):
        for begin, end, asked, state in (
            ("/sleep?level=1", "/wake_up", "/is_sleeping", "sleeping"),
            ("/pause", "/resume", "/is_paused", "paused"),
        ):
            assert (await client.post(begin, None))[1]["status"] == state
            assert (await client.get(asked))[1] == {asked[1:]: True}
            waiting = asyncio.create_task(client.chat())
            await asyncio.sleep(0)
            assert (await client.post(end, None))[0] == 200
            assert (await client.get(asked))[1] == {asked[1:]: False}
            assert (await waiting)[0] == 200
    async with like("vllm-0.22.1", version="0.33.0") as (_, client):
        await client.post("/pause", None)
        assert (await client.chat())[0] == 503


async def test_a_paused_engine_refuses_by_status_or_within_the_stream():
    words = "Generation is paused. Please retry after it resumes."
    async with like("paused") as (_, client):
        status, answer = await client.chat()
        assert (status, answer["error"]["message"]) == (503, words)
        assert (await client.get("/health"))[0] == 200
    async with like("paused-stream") as (_, client):
        events = await client.stream()
        assert events[0]["error"]["message"] == words
        assert events[-1] == "done"
        assert (await client.chat())[0] == 503


async def test_the_page_can_show_a_queue_that_does_not_exist():
    async with like("frozen-queue") as (_, client):
        assert (await client.chat())[0] == 200
        assert await client.metric("vllm:num_requests_waiting{") == 15
    async with like("hung-queue") as (_, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.chat()


async def test_a_router_shows_gauges_by_server_and_a_version_of_its_own():
    async with like("router") as (_, client):
        await client.stream(**ASKED)
        _, page = await client.get("/metrics")
        servers = re.findall(r'vllm:gpu_prefix_cache_queries_total\{server="([^"]+)"\} (\S+)', page)
        assert [value for _, value in servers] == ["0.0", "0.0"]
        assert "model_name" not in page
        assert (await client.get("/version"))[1]["version"] == "0.1.8"


async def test_a_routers_sums_fall_when_an_engine_leaves():
    name = "vllm:gpu_prefix_cache_queries_total"
    async with like("old-router") as (_, client):
        for _ in range(2):
            await client.stream(**ASKED)
        before = await client.metric(name)
        await client.fault(fault="pod_gone")
        assert await client.metric(name) == before / 2
        assert [await cached_of(client) > 0 for _ in range(2)] == [True, True]


async def test_merged_pages_differ_by_a_label_that_vllm_does_not_have():
    async with like("merged-pages") as (_, client):
        await client.stream(**ASKED)
        _, page = await client.get("/metrics")
        found = re.findall(r"vllm:prefix_cache_queries_total\{(.*)\} (\S+)", page)
        assert [labels for labels, _ in found] == [
            'engine="0",pod="vllm-0",model_name="tiny"',
            'engine="0",pod="vllm-1",model_name="tiny"',
        ]
        assert sum(float(value) > 0 for _, value in found) == 1


async def test_shuffled_turns_meet_another_cache_and_the_page_is_that_of_one():
    async with like("shuffled-replicas") as (running, client):
        cached = [await cached_of(client) for _ in range(12)]
        assert cached.count(0) == 3, "each engine computed it once"
        own = await client.metric("vllm:prefix_cache_queries_total")
        told = [rank.totals["prefix_cache_queries"] for rank in running.engine.process.ranks]
        assert own == told[0] < sum(told)


async def test_an_adapters_card_has_a_parent_and_no_length():
    async with like("lora") as (_, client):
        _, listed = await client.get("/v1/models")
        base, adapter = listed["data"]
        assert (base["id"], base["parent"], base["max_model_len"]) == ("tiny", None, 8192)
        assert (adapter["id"], adapter["parent"]) == ("tiny-lora", "tiny")
        assert adapter["max_model_len"] is None
        _, answer = await client.chat(model="tiny-lora")
        assert answer["model"] == "tiny-lora"


async def test_a_bare_card_says_no_length_and_the_refusal_does():
    async with like("bare-model-card") as (_, client):
        (card,) = (await client.get("/v1/models"))[1]["data"]
        assert set(card) == {"id", "object", "created", "owned_by"}
        long = [{"role": "user", "content": "word " * 4000}]
        status, answer = await client.chat(messages=long)
        assert status == 400
        assert "maximum context length is 2000 tokens" in answer["error"]["message"]


async def test_a_gateway_can_forward_only_v1():
    async with like("shuffling-gateway") as (_, client):
        assert [(await client.get(path))[0] for path in ("/metrics", "/version")] == [404, 404]
        cached = [await cached_of(client) for _ in range(12)]
        assert cached.count(0) == 3, "each engine computed it once"


async def test_lookups_count_again_and_prompt_tokens_once():
    async with like("recounted-lookups") as (_, client):
        used = await usage_of(client)
        assert await client.metric("vllm:prompt_tokens_total") == used["prompt_tokens"]
        assert await client.metric("vllm:prefix_cache_queries_total") == 400 * used["prompt_tokens"]
