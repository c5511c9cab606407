"""The simulator as an older vLLM answers in the shape that a real one of that release did."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from conversation import opening
from prometheus_client.parser import text_string_to_metric_families
from wire_client import PATIENCE, Wire, fresh_salt

from exporter.simulator.server import Simulator, SimulatorSettings

DATA = Path(__file__).parents[1] / "engine" / "data"
RECORDED = DATA / "versions"
V0 = {"0.8.5", "0.9.2-v0"}  # as recorded; the page of 0.8.5 with V1 stands beside the folder
WORDS = {
    "assistant",
    "length",
    "chat.completion",
    "chat.completion.chunk",
    "list",
    "model",
    "error",
}
RELEASES = sorted(folder.name for folder in RECORDED.iterdir() if folder.is_dir())
STREAMED = [name for name in RELEASES if (RECORDED / name / "chat.sse").exists()]


def shape(value, key=""):
    """A value without what differs from request to request: keys, in their order, and kinds."""
    if isinstance(value, dict):
        return [(name, shape(each, name)) for name, each in value.items()]
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            return [shape(value[0])]
        return "ids" if key.endswith("token_ids") or key == "bytes" else value
    if isinstance(value, str):
        return value if value in WORDS else "text"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return value


def chunks_of(text):
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def recorded(name, file):
    if (name, file) == ("0.8.5-v1", "metrics.txt"):
        return (DATA / "metrics_0_8_5_v1.txt").read_text("utf-8")
    return (RECORDED / name / file).read_text("utf-8")


@asynccontextmanager
async def engine_of(name):
    version = name.partition("-")[0]
    settings = SimulatorSettings(
        port=0, model="tiny", time_scale=0.0, block_size=32, version=version, v0=name in V0
    )
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with Simulator(settings) as simulator, aiohttp.ClientSession(timeout=timeout) as session:
        yield Wire(session, simulator.url, "tiny")


def salted(name):
    return {} if name == "0.9.2-v0" else {"cache_salt": fresh_salt()}


@pytest.mark.parametrize("name", STREAMED)
async def test_a_stream_and_its_repeat_have_the_recorded_shape(name):
    asked = salted(name)
    async with engine_of(name) as engine:
        answers = [await engine.stream(opening(120), max_tokens=16, **asked) for _ in range(2)]
    for file, answer in zip(("chat.sse", "chat_repeat.sse"), answers, strict=True):
        real, ours = chunks_of(recorded(name, file)), answer.chunks
        assert shape(ours[0]) == shape(real[0])
        assert {str(shape(c)) for c in ours[1:-2]} == {str(shape(c)) for c in real[1:-2]}
        assert shape(ours[-2]) == shape(real[-2])
        if name == "0.8.5":  # it was recorded on a CPU, whose worker tells no cached tokens
            ours[-1]["usage"].pop("prompt_tokens_details", None)
        assert shape(ours[-1]) == shape(real[-1])


@pytest.mark.parametrize("name", RELEASES)
async def test_logprobs_have_the_recorded_shape(name):
    lines = recorded(name, "chat_logprobs.sse").splitlines()
    real = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    asked = {"logprobs": True, "return_tokens_as_token_ids": True, "return_token_ids": False}
    async with engine_of(name) as engine:
        ours = (await engine.stream(opening(120), max_tokens=16, **asked)).chunks
    assert shape(ours[0]) == shape(real[0])
    assert shape(ours[2]) == shape(real[2])
    for chunk in (ours[2], real[2]):
        (entry, *_) = chunk["choices"][0]["logprobs"]["content"]
        assert re.fullmatch(r"token_id:\d+", entry["token"])


@pytest.mark.parametrize("name", RELEASES)
async def test_an_answer_that_is_not_streamed_has_the_recorded_shape(name):
    real = json.loads(recorded(name, "chat_plain.json"))
    asked = salted(name)
    async with engine_of(name) as engine:
        for _ in range(2 if real["usage"]["prompt_tokens_details"] else 1):
            ours = await engine.chat(opening(120), max_tokens=16, **asked)
    assert shape(ours) == shape(real)


@pytest.mark.parametrize("name", RELEASES)
async def test_the_list_of_models_has_the_recorded_shape(name):
    async with engine_of(name) as engine:
        _, text, _ = await engine.get("/v1/models")
    assert shape(json.loads(text)) == shape(json.loads(recorded(name, "models.json")))


@pytest.mark.parametrize("name", RELEASES)
async def test_a_prompt_that_is_too_long_is_refused_in_the_recorded_words(name):
    real = json.loads(recorded(name, "too_long.txt"))
    async with engine_of(name) as engine:
        messages = await engine.messages_of(40010)
        status, ours = await engine.post(
            "/v1/chat/completions", engine.body(messages, max_tokens=16)
        )
    assert (status, ours) == (400, real)


REFUSED_MODEL = [name for name in RELEASES if (RECORDED / name / "unknown_model.txt").exists()]


@pytest.mark.parametrize("name", REFUSED_MODEL)
async def test_a_model_that_is_not_served_is_refused_in_the_recorded_shape(name):
    real = json.loads(recorded(name, "unknown_model.txt"))
    async with engine_of(name) as engine:
        body = engine.body(opening(10), max_tokens=16, model="nope")
        status, ours = await engine.post("/v1/chat/completions", body)
    assert status == 404
    assert shape(ours) == shape(real)


def families(page):
    found = {}
    for family in text_string_to_metric_families(page):
        if not family.name.startswith(("vllm:", "process_start")):
            continue
        for sample in family.samples:
            labels = frozenset(sample.labels) - {"le"}
            found.setdefault(sample.name, (family.type, family.documentation, set()))[2].add(labels)
    return found


SHOWN_BY_FEW = {"vllm:cache_config_info"}  # its labels differ from kind to kind of machine
READ = (
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "gpu_prefix_cache_queries_total"),
    *("gpu_prefix_cache_hits_total", "prompt_tokens_total", "prompt_tokens_cached_total"),
    *("generation_tokens_total", "num_preemptions_total", "kv_cache_usage_perc"),
    *("gpu_cache_usage_perc", "num_requests_running", "num_requests_waiting"),
    *("engine_sleep_state", "iteration_tokens_total_sum", "cache_config_info"),
)


@pytest.mark.parametrize("name", [*RELEASES, "0.8.5-v1"])
async def test_metrics_have_the_recorded_names_help_and_labels(name):
    async with engine_of(name) as engine:
        if name != "0.8.5-v1":  # its recorded page is that of an engine without a server
            await engine.chat(opening(10), **salted(name))
        _, page, _ = await engine.get("/metrics")
    real, ours = families(recorded(name, "metrics.txt")), families(page)
    for sample, told in ours.items():
        if sample.endswith(("_bucket", "_created")) or (name == "0.8.5-v1" and sample not in real):
            continue
        assert sample in real, f"{name} has no {sample}"
        if sample not in SHOWN_BY_FEW:
            assert told == real[sample], sample
    for sample in READ:
        assert (f"vllm:{sample}" in ours) == (f"vllm:{sample}" in real), sample
    assert ("process_start_time_seconds" in ours) == ("process_start_time_seconds" in real)


@pytest.mark.parametrize("name", RELEASES)
async def test_the_cache_config_has_no_label_that_the_release_has_not(name):
    def labels(page):
        return {
            key
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "vllm:cache_config_info"
            for key in sample.labels
        }

    async with engine_of(name) as engine:
        _, page, _ = await engine.get("/metrics")
    real = labels(recorded(name, "metrics.txt"))
    assert labels(page) <= real
    for label in ("kv_cache_size_tokens", "engine", "prefix_match_unit"):
        assert (label in labels(page)) == (label in real)
