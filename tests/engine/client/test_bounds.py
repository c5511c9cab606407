"""Answers have limits: one that is too long or impossible is a known failure."""

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.client.translation import connection_failure
from exporter.engine.metrics.exposition import parse
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.engine.wire.surfaces.chat_completions import ChatAnswer
from exporter.errors import EngineUnavailableError, ExpositionError
from exporter.model.chat import Usage
from exporter.model.failure import FailureReason

REQUEST = ChatRequest("tiny", [{"role": "user", "content": "hello"}], 4)
MIB = 1 << 20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(**routes: Handler):
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_route("*", "/" + path.replace("__", "/"), handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def page_of(body: bytes, **headers: str) -> Handler:
    async def handle(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=headers)

    return handle


async def refused(handler: Handler) -> EngineUnavailableError:
    async with serving(metrics=handler) as url, EngineClient(url, timeout_seconds=30) as client:
        with pytest.raises(EngineUnavailableError) as caught:
            await client.metrics()
    return caught.value


async def test_a_gzip_page_is_unpacked():
    packed = page_of(gzip.compress(b"vllm:x 1\n" * 1000), **{"Content-Encoding": "gzip"})
    async with serving(metrics=packed) as url, EngineClient(url) as client:
        assert await client.metrics() == b"vllm:x 1\n" * 1000


async def test_a_gzip_bomb_is_refused_before_it_is_unpacked_whole():
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(MIB)) for _ in range(256)) + bomb.flush()
    handler = page_of(packed, **{"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        error = await refused(handler)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.reason == FailureReason.PROTOCOL
    assert "larger than 8 MiB" in error.detail
    assert most < 64 * MIB, "the whole of it has 256"


@pytest.mark.parametrize(
    ("body", "coding", "reason", "said"),
    [
        (b"x" * (9 * MIB), "identity", FailureReason.PROTOCOL, "larger than 8 MiB"),
        (b"no gzip", "gzip", FailureReason.PROTOCOL, "not gzip"),
        (gzip.compress(b"x" * 999)[:-9], "gzip", FailureReason.STREAM_CUT, "breaks off"),
        (b"", "gzip", FailureReason.STREAM_CUT, "breaks off"),
        (b"x", "br", FailureReason.PROTOCOL, "'br', which was not offered"),
    ],
    ids=["long", "no gzip", "cut gzip", "empty gzip", "brotli"],
)
async def test_a_page_that_is_too_long_or_badly_packed_has_its_reason(body, coding, reason, said):
    error = await refused(page_of(body, **{"Content-Encoding": coding}))
    assert error.reason == reason
    assert said in error.detail


async def test_a_stream_with_an_encoding_that_was_not_offered_is_not_unpacked():
    handler = page_of(
        gzip.compress(b"data: [DONE]\n\n"),
        **{"Content-Encoding": "gzip", "Content-Type": "text/event-stream"},
    )
    async with serving(v1__chat__completions=handler) as url, EngineClient(url) as client:
        failure = (await client.chat(REQUEST, Deadlines())).failure
    assert failure is not None
    assert failure.reason is FailureReason.PROTOCOL
    assert "not offered" in failure.detail


@pytest.mark.parametrize(
    "piece", [b": still here\n", b"x" * 4096, b"data: x\n"], ids=["comments", "line", "event"]
)
async def test_a_stream_without_an_end_is_given_up_at_a_bound(piece):
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        block = piece * (65536 // len(piece))
        while True:
            await response.write(block)

    async with serving(v1__chat__completions=endless) as url, EngineClient(url) as client:
        failure = (await client.chat(REQUEST, Deadlines(first_token=300, whole=300))).failure
    assert failure is not None
    assert failure.reason is FailureReason.PROTOCOL
    assert "does not end" in failure.detail


async def test_no_redirect_leaves_the_origin_and_a_page_may_move_within_it():
    asked = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(text="vllm:x 1\n")

    async def move(request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("/new")

    async with serving(metrics=elsewhere, v1__chat__completions=elsewhere) as other:

        async def lead_away(request: web.Request) -> web.StreamResponse:
            raise web.HTTPTemporaryRedirect(other + request.path)

        away = {"metrics": lead_away, "v1__chat__completions": lead_away}
        async with serving(**away) as url, EngineClient(url, api_key="key") as client:
            with pytest.raises(EngineUnavailableError, match=f"redirected to {other}"):
                await client.metrics()
            failure = (await client.chat(REQUEST, Deadlines())).failure
    assert failure is not None
    assert failure.reason is FailureReason.PROTOCOL
    assert asked == []
    async with serving(metrics=move, new=elsewhere) as url, EngineClient(url) as client:
        assert await client.metrics() == b"vllm:x 1\n"


async def test_a_ring_of_redirects_fails():
    async def ring(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/metrics")

    error = await refused(ring)
    assert error.reason == FailureReason.PROTOCOL


DETAILS = '{"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": %s}'


@pytest.mark.parametrize(
    ("usage", "words"),
    [
        ('{"prompt_tokens": -1}', "usage says prompt_tokens -1"),
        ('{"prompt_tokens": 0, "completion_tokens": 1}', "usage says prompt_tokens 0"),
        ('{"prompt_tokens": 5, "completion_tokens": -3}', "usage says completion_tokens -3"),
        (
            DETAILS % '{"cached_tokens": 6}',
            "usage says that 6 of 5 prompt tokens were cached",
        ),
        (
            DETAILS % '{"cached_tokens": -1}',
            "usage says cached_tokens -1",
        ),
        (
            DETAILS % "[3]",
            "usage has prompt_tokens_details that are not an object",
        ),
        ('{"prompt_tokens": 1e999}', "usage says prompt_tokens inf"),
        ('{"prompt_tokens": NaN}', "usage says prompt_tokens nan"),
        ('{"prompt_tokens": 1.5}', "usage says prompt_tokens 1.5"),
        ('{"prompt_tokens": "5"}', "usage says prompt_tokens '5'"),
        ('{"prompt_tokens": true}', "usage says prompt_tokens True"),
        ('{"prompt_tokens": 1000000000000000000000000}', "usage says prompt_tokens 10000000"),
        ('{"prompt_tokens": null, "completion_tokens": 1}', "usage has no prompt_tokens"),
        ('{"total_tokens": 6, "completion_tokens": 1}', "usage has no prompt_tokens"),
        ('{"prompt_tokens": 5}', "usage has no completion_tokens"),
        ("{}", "usage has no prompt_tokens"),
        ("[]", "usage is not an object"),
        ('"7"', "usage is not an object"),
    ],
)
def test_an_impossible_usage_is_rejected_and_the_answer_is_kept(usage, words):
    answer = ChatAnswer()
    assert answer.add(b'{"choices": [{"delta": {"content": "a"}}]}', 1.0)
    answer.add(b'{"usage": %s, "choices": []}' % usage.encode(), 2.0)
    answer.add(b"[DONE]", 3.0)
    assert answer.end() is None
    assert answer.token_times == [1.0]
    assert answer.usage is None
    assert answer.usage_fault is not None
    assert answer.usage_fault.startswith(words)


def test_a_later_possible_usage_counts_and_an_empty_one_changes_nothing():
    answer = ChatAnswer()
    for usage in ("{}", '{"prompt_tokens": 9, "completion_tokens": 2}', "{}"):
        answer.add(b'{"usage": %s, "choices": []}' % usage.encode(), 1.0)
    assert answer.usage == Usage(9, 2, None)
    assert answer.usage_fault is None


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"choices": [{"token_ids": [1e999]}]}'],
    ids=["deep nesting", "infinite id"],
)
def test_json_that_python_cannot_parse_is_a_protocol_failure(data):
    answer = ChatAnswer()
    answer.add(data, 1.0)
    assert answer.failure is not None
    assert answer.failure.reason is FailureReason.PROTOCOL


def test_text_without_an_end_is_a_protocol_failure():
    answer, piece = ChatAnswer(), json.dumps({"choices": [{"delta": {"content": "x" * 65536}}]})
    for _ in range(20):
        answer.add(piece.encode(), 1.0)
    assert answer.failure is not None
    assert "does not end" in answer.failure.detail


OTHER = b'vllm:e2e_request_latency_seconds_bucket{engine="%d",le="0.5"} 12.0\n'
WANTED = b'vllm:num_requests_running{engine="%d"} 1.0\n'


def test_two_hundred_thousand_other_lines_hide_no_wanted_line():
    page = b"".join(OTHER % i for i in range(200_000)) + WANTED % 0
    assert parse(page, at=0, scrape_seconds=0).requests_running == 1


def test_the_page_of_two_hundred_and_fifty_ranks_is_read():
    line = 'vllm:time_to_first_token_seconds_bucket{{engine="{0}",model_name="a/model",le="{1}"}} 9'
    page = "\n".join(
        line.format(rank, bound) for rank in range(250) for bound in (*range(34), "+Inf")
    )
    ranks = b"".join(WANTED % rank for rank in range(250))
    assert parse(page.encode() + b"\n" + ranks, at=0, scrape_seconds=0).ranks == 250


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"".join(WANTED % i for i in range(200_000)), "too much to read"),
        (b'vllm:num_requests_running{engine="' + b"x" * MIB + b'"} 1\n', "too much to read"),
        (b"x" * (4 * MIB) + b"\n", "line 1: 'xxx"),
    ],
    ids=["wanted lines", "one wanted line", "one line"],
)
def test_a_page_that_would_block_the_daemon_is_refused_at_once(page, said):
    began = time.process_time()
    with pytest.raises(ExpositionError, match=said):
        parse(page, at=0, scrape_seconds=0)
    assert time.process_time() - began < 2, "prometheus_client takes over five for each of these"


def test_a_long_page_of_other_metrics_is_recognized_by_its_beginning():
    page = b"".join(b'http_requests_total{path="%d"} 1\n' % i for i in range(200_000))
    began = time.process_time()
    assert parse(page, at=0, scrape_seconds=0).ranks == 0
    assert time.process_time() - began < 2


def test_an_exporter_out_of_descriptors_does_not_blame_the_engine():
    failure = connection_failure(OSError(24, "Too many open files"))
    assert failure.reason is FailureReason.NO_DESCRIPTORS
