"""`simulate --like NAME`: what each kind of server answers."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from sim_client import AT_ONCE, HELLO, Client, until

from exporter.cli.main import main
from exporter.container.decide.diagnosis import DiagnosisInput, diagnose
from exporter.container.decide.records import Cause
from exporter.errors import ConfigError
from exporter.simulator.engine_kinds import table
from exporter.simulator.engine_kinds.starts import FAILING_STARTS
from exporter.simulator.engine_kinds.table import PROFILES, settings_like
from exporter.simulator.faults import behaviours
from exporter.simulator.faults.faults import Hang
from exporter.simulator.server import Simulator, SimulatorSettings

ROOT = Path(__file__).parents[2]
LONG = [{"role": "user", "content": "one more word " * 600}]  # 1,200 tokens and a few
ASKED = {"messages": LONG, "max_tokens": 40, "ignore_eos": True}
PATIENCE = 20.0


@asynccontextmanager
async def like(name, **changed):
    """A server of that kind that answers at once, and a client for it."""
    settings = settings_like(name, SimulatorSettings(**(AT_ONCE | changed)))
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
        async with Simulator(settings) as running:
            yield running, Client(session, running.url)


async def usage_of(client, **changed):
    events = await client.stream(**(ASKED | changed))
    return next(event["usage"] for event in events if "usage" in event)


async def cached_of(client, **changed):
    return (await usage_of(client, **changed))["prompt_tokens_details"]["cached_tokens"]


# Choosing one


@pytest.mark.parametrize("name", PROFILES)
async def test_every_profile_starts_and_shows_that_it_is_simulated(name):
    async with like(name) as (running, client):
        status, version = await client.get("/version")
        assert status in (200, 404)
        assert status == 404 or version["simulated"] is True
        active = {fault["fault"] for fault in (await client.get("/faults"))[1]["active"]}
        assert active == {one.name for one in PROFILES[name].behaviours}
        assert running.settings.version.count(".") == 2


def test_an_unknown_name_is_exit_code_2_and_lists_what_is_allowed(capsys):
    for command in ("simulate", "demo"):
        assert main([command, "--like", "egale"]) == 2
        said = capsys.readouterr().err
        assert "--like egale: no such server; allowed: " in said
        assert all(name in said for name in PROFILES)


@pytest.mark.parametrize(
    ("command", "names"),
    [("simulate", [*PROFILES, *FAILING_STARTS]), ("demo", list(PROFILES))],
    ids=["simulate", "demo"],
)
def test_the_help_lists_every_name(capsys, command, names):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    listed = re.findall(
        r"^  ([a-z][\w.-]+) {2,}", told.partition("names for --like:")[2], re.MULTILINE
    )
    assert listed == names
    assert all(len(line) <= 80 for line in told.splitlines())


@pytest.mark.parametrize(
    ("name", "cause", "evidence"),
    [
        ("start-out-of-memory", Cause.CUDA_OUT_OF_MEMORY, "CUDA out of memory"),
        ("start-shm-full", Cause.SHARED_MEMORY_TOO_SMALL, "shared memory segment"),
        ("start-invalid-value", Cause.INVALID_ARGUMENT, "max_model_len (999999)"),
        ("start-core-failed", Cause.ENGINE_CORE_DIED, "must be divisible by 3"),
    ],
)
def test_a_start_that_fails_is_printed_and_diagnosed(capsys, name, cause, evidence):
    exit_code = main(["simulate", "--like", name])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("SIMULATED")
    found = diagnose(DiagnosisInput(log=lines, exit_code=exit_code))
    assert found.cause is cause
    assert evidence in found.evidence
    assert f"`{cause}`" in FAILING_STARTS[name].said


def test_a_failing_start_is_not_a_server_for_the_demo(capsys):
    for name in FAILING_STARTS:
        assert main(["demo", "--like", name]) == 2
        assert "no such server" in capsys.readouterr().err


def test_the_table_of_the_docs_is_current():
    assert table.table() in (ROOT / "docs" / "simulator.md").read_text("utf-8"), (
        "put the output of `python -m exporter.simulator.engine_kinds.table` into docs/simulator.md"
    )


def test_given_settings_are_kept():
    given = SimulatorSettings(port=0, max_model_len=4000, behaviours=(behaviours.Drafts(),))
    made = settings_like("bare-model-card", given)
    assert (made.port, made.max_model_len) == (0, 4000)
    assert made.behaviours == (behaviours.ModelCard("bare"), behaviours.Drafts())
    assert settings_like("bare-model-card").max_model_len == 3000


def test_an_invalid_release_is_refused():
    for version in ("0.8.4", "latest", ""):
        with pytest.raises(ConfigError, match=r"0\.8\.5 or later"):
            SimulatorSettings(version=version)


def test_every_behaviour_is_part_of_a_profile_or_activated_by_hand():
    used = {type(one) for profile in PROFILES.values() for one in profile.behaviours}
    by_hand = {behaviours.PodGone, behaviours.AllReasoning}
    assert set(behaviours.ALL) == (used | by_hand) - {Hang}


# What the cache serves


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
        assert "maximum context length is 3000 tokens" in answer["error"]["message"]


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


async def test_the_command_serves_a_server_of_that_kind_and_says_so():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "simulate", "--port", "0", "--like", "lora"),
        *("--served-model-name", "base"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while not (line := await process.stderr.readline()).startswith(b"SIMULATED"):
                pass
        assert line.rstrip().endswith(b"It behaves like lora.")
        url = re.search(rb"http://[^ ]+\d", line)[0].decode()
        async with aiohttp.ClientSession() as session:
            _, listed = await Client(session, url).get("/v1/models")
        assert [card["id"] for card in listed["data"]] == ["base", "base-lora"]
    finally:
        process.kill()
        await process.wait()
