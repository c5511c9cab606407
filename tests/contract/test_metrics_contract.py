"""/metrics: the families that are read, their labels, and that they follow what happens."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from conversation import opening
from wire_client import until

COUNTERS = (
    "prefix_cache_queries",
    "prefix_cache_hits",
    "prompt_tokens",
    "prompt_tokens_cached",
    "generation_tokens",
    "num_preemptions",
)
LONG = 6000  # tokens; several seconds on any engine here
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)


async def test_the_page_is_prometheus_text(engine):
    status, page, headers = await engine.get("/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=1.0.0; charset=utf-8"
    assert "# TYPE vllm:prefix_cache_hits_total counter" in page
    assert page.endswith("\n")


async def test_the_wanted_families_are_there_per_engine_and_model(engine):
    await engine.chat(opening(10))
    labels = {name: {key for key, _ in pairs} for name, pairs in await engine.samples()}
    for name in COUNTERS:
        assert labels[f"vllm:{name}_total"] == {"engine", "model_name"}
        assert labels[f"vllm:{name}_created"] == {"engine", "model_name"}
    for name in GAUGES:
        assert labels[f"vllm:{name}"] == {"engine", "model_name"}
    for name in HISTOGRAMS:
        assert labels[f"vllm:{name}_count"] == labels[f"vllm:{name}_sum"]
        assert labels[f"vllm:{name}_bucket"] == {"engine", "model_name", "le"}
    assert labels["vllm:request_success_total"] == {"engine", "model_name", "finished_reason"}
    assert labels["vllm:prompt_tokens_by_source_total"] == {"engine", "model_name", "source"}
    assert labels["process_start_time_seconds"] == set()


async def test_series_carry_the_served_name_and_the_rank(engine):
    samples = await engine.samples()
    name = "vllm:prefix_cache_queries_total"
    series = [dict(labels) for each, labels in samples if each == name]
    assert series == [{"engine": "0", "model_name": engine.model}]


async def test_the_start_time_is_a_plain_unix_time(engine):
    first = await engine.metric("process_start_time_seconds")
    assert first > 1_600_000_000
    assert await engine.metric("process_start_time_seconds") == first


@pytest.mark.engines("details32", "details128")
async def test_the_cache_config_says_block_size_and_room(engine):
    config = await engine.cache_config()
    block, blocks = int(config["block_size"]), int(config["num_gpu_blocks"])
    assert block in {32, 128}
    assert int(config["effective_attention_block_size"]) == block
    assert int(config["kv_cache_size_tokens"]) == block * blocks
    assert config["prefix_match_unit"] == "None"
    assert config["engine"] == "0"


async def test_the_same_buckets_as_vllm(engine):
    wanted = {
        "time_to_first_token_seconds": ("0.001", "2560.0"),
        "inter_token_latency_seconds": ("0.01", "80.0"),
        "e2e_request_latency_seconds": ("0.3", "7680.0"),
    }
    bounds: dict[str, list[str]] = {}
    for name, labels in await engine.samples():
        if name.endswith("_bucket"):
            bounds.setdefault(name, []).append(dict(labels)["le"])
    for name, (first, last) in wanted.items():
        found = [bound for bound in bounds[f"vllm:{name}_bucket"] if bound != "+Inf"]
        assert (found[0], found[-1]) == (first, last)


async def test_an_idle_engine_uses_none_of_its_cache(engine):
    await engine.chat(opening(200))
    await until_zero(engine, "vllm:kv_cache_usage_perc")


async def test_a_running_request_is_counted_and_a_client_that_leaves_ends_it(engine):
    async def seen_running_and_ended_early():
        before = await engine.metric("vllm:generation_tokens_total")
        async with long_stream(engine) as response:
            await response.content.readline()
            samples = await engine.samples()
        await until_zero(engine, "vllm:num_requests_running")
        await until_zero(engine, "vllm:kv_cache_usage_perc")
        generated = await engine.metric("vllm:generation_tokens_total") - before
        values = {name: value for (name, _), value in samples.items()}
        running, usage = values["vllm:num_requests_running"], values["vllm:kv_cache_usage_perc"]
        return running == 1 and usage > 0 and generated < LONG

    # Again where the request was over before anybody looked: vLLM's HTTP process answers nothing
    # else while it lags behind its engine, which it does on a busy machine.
    await until(seen_running_and_ended_early)


@asynccontextmanager
async def long_stream(engine):
    """The response to a request for many tokens; at the end its client leaves."""
    body = engine.body(opening(200), max_tokens=LONG, stream=True)
    async with engine.session.post(engine.url + "/v1/chat/completions", json=body) as response:
        yield response
        response.close()


async def until_zero(engine, name):
    async def zero():
        return await engine.metric(name) == 0

    await until(zero)
