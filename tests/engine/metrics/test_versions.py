"""Recorded answers of real servers from vLLM 0.8.5 to 0.32.0, and what is read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from engine_pages import read

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.refusal import failure_of, read_refusal
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.engine.wire.surfaces.chat_completions import read_usage
from exporter.model.chat import Chat, Usage
from exporter.model.failure import FailureReason

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot

DATA = Path(__file__).parents[1] / "data" / "versions"
ALL = sorted(folder.name for folder in DATA.iterdir() if folder.is_dir())
NEWEST = ("0.24.0", "0.27.1", "0.29.0", "0.31.0", "0.32.0")  # they tell a hit of 0 as well
# Nobody tells cached tokens on a CPU with the V0 engine; the GPU's worker of 0.8.5 does.
V0 = ("0.8.5", "0.9.2-v0")
OLD = tuple(version for version in ALL if version not in (*NEWEST, *V0))
WITH_IDS = ("0.10.2", "0.16.0", "0.17.1", "0.22.1", "0.23.0", *NEWEST)
# Up to 0.22 the tokens of an engine's steps contain those that hit.
COUNT_HITS = ("0.9.1", "0.9.2", "0.10.0", "0.10.2", "0.16.0", "0.17.1", "0.22.1")
WITHOUT_IDS = ("0.8.5", "0.9.1", "0.9.2", "0.9.2-v0", "0.10.0")
PROMPTS = {
    "0.8.5": 282,
    "0.9.1": 282,
    "0.9.2": 283,
    "0.9.2-v0": 281,
    "0.10.0": 283,
    "0.10.2": 279,
    "0.16.0": 277,
    "0.17.1": 283,
    "0.22.1": 283,
    "0.23.0": 280,
    "0.24.0": 279,
    "0.27.1": 274,
    "0.29.0": 276,
    "0.31.0": 281,
    "0.32.0": 280,
}


def file(version: str, name: str) -> bytes:
    return (DATA / version / name).read_bytes()


def page(version: str) -> EngineSnapshot:
    return read(file(version, "metrics.txt"))


async def played(version: str, name: str) -> Chat:
    """What the client makes of a recorded stream."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=file(version, name), content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    request = ChatRequest("tiny", [{"role": "user", "content": "hello"}], 16)
    async with TestServer(app) as server, EngineClient(str(server.make_url("/"))) as client:
        return await client.chat(request, Deadlines())


# Usage


@pytest.mark.parametrize("version", OLD)
async def test_up_to_0_23_a_stream_leaves_out_a_hit_of_0_and_reports_every_other(version: str):
    cold, warm = await played(version, "chat.sse"), await played(version, "chat_repeat.sse")
    assert (cold.failure, warm.failure) == (None, None)
    assert cold.usage == Usage(PROMPTS[version], 16, None)
    assert warm.usage == Usage(PROMPTS[version], 16, 256)


@pytest.mark.parametrize("version", NEWEST)
async def test_since_0_24_a_stream_also_reports_a_hit_of_0(version: str):
    cold, warm = await played(version, "chat.sse"), await played(version, "chat_repeat.sse")
    assert cold.usage == Usage(PROMPTS[version], 16, 0)
    assert warm.usage == Usage(PROMPTS[version], 16, 256)


async def test_the_v0_engine_of_0_8_5_reports_no_cached_tokens_on_a_cpu():
    for name in ("chat.sse", "chat_repeat.sse"):
        assert (await played("0.8.5", name)).usage == Usage(282, 16, None)


@pytest.mark.parametrize("version", ALL)
def test_an_answer_that_is_not_streamed_has_null_details_or_the_cached_tokens(version: str):
    usage = read_usage(json.loads(file(version, "chat_plain.json"))["usage"])
    assert usage == Usage(PROMPTS[version], 16, None if version in V0 else 256)


# Token ids


@pytest.mark.parametrize("version", WITH_IDS)
async def test_since_0_10_2_a_stream_has_the_ids_of_prompt_and_answer(version: str):
    chat = await played(version, "chat.sse")
    assert chat.prompt_token_ids is not None
    assert chat.completion_token_ids is not None
    assert len(chat.prompt_token_ids) == PROMPTS[version]
    assert len(chat.completion_token_ids) == 16


@pytest.mark.parametrize("version", WITHOUT_IDS)
async def test_before_0_10_2_the_ids_of_an_answer_are_in_its_logprobs(version: str):
    chat = await played(version, "chat_logprobs.sse")
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == PROMPTS[version]
    assert chat.prompt_token_ids is None
    assert chat.completion_token_ids is not None
    assert len(chat.completion_token_ids) == 16


@pytest.mark.parametrize("version", ["0.8.5", "0.9.1", "0.9.2", "0.10.0"])
async def test_before_0_10_2_a_stream_that_was_not_asked_for_logprobs_has_no_ids(version: str):
    chat = await played(version, "chat.sse")
    assert (chat.prompt_token_ids, chat.completion_token_ids) == (None, None)


@pytest.mark.parametrize("version", [*WITH_IDS, "0.8.5", "0.9.1", "0.9.2", "0.10.0"])
async def test_an_answer_is_timed_by_its_chunks_of_text_in_every_version(version: str):
    chat = await played(version, "chat.sse")
    # A server may send several tokens in one chunk; the role alone is no token.
    assert 1 <= len(chat.token_times) <= 16
    assert len(str(chat.message["content"]).split()) == 16
    assert chat.finish_reason == "length"


# What else is asked


@pytest.mark.parametrize("version", ALL)
def test_a_prompt_beyond_the_context_is_recognized_in_every_version(version: str):
    assert failure_of(400, file(version, "too_long.txt")).reason is FailureReason.PROMPT_TOO_LONG


UNKNOWN_MODEL = sorted(each.parent.name for each in DATA.glob("*/unknown_model.txt"))


@pytest.mark.parametrize("version", UNKNOWN_MODEL)
def test_a_model_that_is_not_served_is_recognized_in_both_shapes_of_an_error(version: str):
    failure = failure_of(404, file(version, "unknown_model.txt"))
    assert failure.reason is FailureReason.MODEL_NOT_FOUND
    assert failure.detail.startswith("HTTP 404: The model `nope` does not exist.")


def test_the_v0_engine_of_0_9_names_the_salt_that_it_refuses():
    refusal = read_refusal(400, file("0.9.2-v0", "salt_refused.txt"))
    assert refusal.failure.reason is FailureReason.BAD_REQUEST
    assert refusal.names(("stream_options", "return_token_ids", "cache_salt")) == "cache_salt"


@pytest.mark.parametrize("version", ALL)
async def test_a_model_its_context_and_the_version_are_read_in_every_version(version: str):
    async def serve(request: web.Request) -> web.Response:
        name = {"/v1/models": "models.json", "/version": "version.json"}[request.path]
        return web.Response(body=file(version, name), content_type="application/json")

    app = web.Application()
    app.router.add_get("/v1/models", serve)
    app.router.add_get("/version", serve)
    async with TestServer(app) as server, EngineClient(str(server.make_url("/"))) as client:
        info = await client.info()
    assert (info.model, info.max_model_len, info.simulated) == ("tiny", 8192, False)
    # The whole tag of the wheel, such as 0.10.2.post2.
    assert info.version is not None
    assert info.version.startswith(version.removesuffix("-v0"))


# Counters: queried, hit, cached prompt tokens, prompt and generated tokens

COUNTERS = {
    "0.8.5": (None, None, None, 107284.0, 1587.0),
    "0.9.1": (141442.0, 104544.0, None, 141442.0, 2099.0),
    "0.9.2": (141444.0, 104544.0, None, 141444.0, 2099.0),
    "0.9.2-v0": (None, None, None, 562.0, 32.0),
    "0.10.0": (167283.0, 124704.0, None, 167283.0, 2099.0),
    "0.10.2": (126548.0, 89696.0, None, 126548.0, 1587.0),
    "0.16.0": (167244.0, 124704.0, 124704.0, 167244.0, 2099.0),
    "0.17.1": (126559.0, 89696.0, 89696.0, 126559.0, 1587.0),
    "0.22.1": (167274.0, 124704.0, 124704.0, 167274.0, 2099.0),
    "0.23.0": (167271.0, 124704.0, 124704.0, 167271.0, 2099.0),
    "0.24.0": (167263.0, 124704.0, 124704.0, 167263.0, 2099.0),
    "0.27.1": (1370.0, 768.0, 768.0, 1370.0, 80.0),
    "0.29.0": (126536.0, 89696.0, 89696.0, 126536.0, 1587.0),
    "0.31.0": (167261.0, 124704.0, 124704.0, 167261.0, 2099.0),
    "0.32.0": (1400.0, 768.0, 768.0, 1400.0, 80.0),
}


@pytest.mark.parametrize("version", ALL)
def test_the_counters_are_those_on_the_page_of_every_version(version: str):
    snapshot = page(version)
    assert (
        snapshot.queried_tokens,
        snapshot.hit_tokens,
        snapshot.cached_prompt_tokens,
        snapshot.prompt_tokens,
        snapshot.generation_tokens,
    ) == COUNTERS[version]
    assert (snapshot.ranks, snapshot.model_names) == (1, ("tiny",))
    assert (snapshot.requests_running, snapshot.requests_waiting) == (0.0, 0.0)
    assert snapshot.preemptions == 0.0
    assert snapshot.kv_cache_usage_ratio == pytest.approx(0.0, abs=0.001)
    assert snapshot.hit_rate_gauge is None


@pytest.mark.parametrize("version", ALL)
def test_the_lookups_of_every_recorded_version_count_tokens(version: str):
    assert page(version).lookup_step_tokens == 1


@pytest.mark.parametrize("version", ALL)
def test_steps_count_the_tokens_of_hits_too_until_0_22(version: str):
    _, hit, _, prompt, generated = COUNTERS[version]
    left_out = 0 if version in (*V0, *COUNT_HITS) else hit
    assert page(version).iteration_tokens == prompt + generated - left_out


@pytest.mark.parametrize("version", ALL)
def test_sleep_is_told_since_0_16_and_no_recorded_engine_speculates(version: str):
    silent = version in (*V0, "0.9.1", "0.9.2", "0.10.0", "0.10.2")
    snapshot = page(version)
    assert snapshot.asleep is (None if silent else False)
    assert snapshot.speculative is False


@pytest.mark.parametrize("version", ALL)
def test_the_page_of_a_v0_engine_has_no_start_time(version: str):
    assert (page(version).process_start_time is None) == (version in V0)


@pytest.mark.parametrize("version", ALL)
def test_every_version_shows_the_size_of_its_cache_and_that_it_is_on(version: str):
    block, blocks = {"0.8.5": (16, 32768), "0.9.1": (32, 32768)}.get(version, (32, 16384))
    cache = page(version).cache
    assert cache is not None
    assert (cache.block_size, cache.num_blocks, cache.prefix_caching) == (block, blocks, True)
    assert cache.match_unit_tokens == block
    # Since 0.24 the page says it; before, it is what the blocks come to.
    assert cache.capacity_tokens == blocks * block
