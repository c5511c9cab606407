"""Each way in which a chat can fail has its own reason."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from chat_server import (
    DONE,
    NO_FIRST_TOKEN,
    NO_MORE_TOKENS,
    PATIENT,
    REQUEST,
    USAGE,
    Handler,
    chunk,
    cut,
    failure_of,
    hang,
    serving,
    streaming,
)

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.errors import EngineUnavailableError
from exporter.model.failure import FailureReason


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([hang], FailureReason.FIRST_TOKEN_TIMEOUT),
        ([chunk(""), hang], FailureReason.FIRST_TOKEN_TIMEOUT),
        ([chunk("one"), hang], FailureReason.STALLED),
        ([cut], FailureReason.STREAM_CUT),
        ([chunk("one"), cut], FailureReason.STREAM_CUT),
        ([chunk("one")], FailureReason.STREAM_CUT),
        ([chunk("one"), b'data: {"error":{"message":"dead"}}\n\n', DONE], "stream_error"),
        ([chunk("one", "abort"), USAGE, DONE], FailureReason.ABORTED),
        ([b"data: nonsense\n\n"], FailureReason.PROTOCOL),
        ([chunk("one", "stop"), DONE, cut], None),
        ([chunk("one", "stop"), DONE, hang], None),
    ],
)
async def test_each_way_a_stream_can_go_wrong_has_its_own_reason(pieces, reason):
    by_reason = {
        FailureReason.FIRST_TOKEN_TIMEOUT: NO_FIRST_TOKEN,
        FailureReason.STALLED: NO_MORE_TOKENS,
        None: Deadlines(connect=60, first_token=60, between_tokens=3, whole=120),
    }
    assert await failure_of(streaming(*pieces), by_reason.get(reason, PATIENT)) == reason


async def test_a_stream_that_never_ends_is_ended_by_the_deadline_of_the_whole_turn():
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(chunk("x"))
            await asyncio.sleep(0.01)

    deadlines = Deadlines(first_token=20, between_tokens=20, whole=0.5)
    async with serving(drip) as url, EngineClient(url) as client:
        got = await client.chat(REQUEST, deadlines)
    assert got.failure.reason is FailureReason.TURN_TIMEOUT
    assert got.token_times, "what came until then is kept"


async def test_an_answer_that_is_no_stream_is_a_protocol_failure():
    async def chat(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": []})

    assert await failure_of(chat) is FailureReason.PROTOCOL


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {"error": "Unauthorized"}, FailureReason.UNAUTHORIZED),
        (404, {"error": {"message": "no model", "param": "model"}}, FailureReason.MODEL_NOT_FOUND),
        (400, {"error": {"message": "x", "param": "input_tokens"}}, FailureReason.PROMPT_TOO_LONG),
        (500, {"error": {"message": "boom"}}, FailureReason.SERVER_ERROR),
    ],
)
async def test_a_refused_request_says_why(status, body, reason):
    async def chat(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    assert await failure_of(chat) is reason


TOO_LONG = json.dumps({"error": {"message": "too long", "param": "input_tokens"}}).encode()


def in_pieces(*pieces: bytes | Callable[[web.Request], Awaitable[None]], status: int) -> Handler:
    """An error whose body comes piece by piece."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for piece in pieces:
            if callable(piece):
                await piece(request)
            else:
                await response.write(piece)
                await asyncio.sleep(0)
        return response

    return handle


async def seen_apart(_request: web.Request) -> None:
    """Long enough for the client to have read what came so far: its parser waits 50 ms."""
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ([TOO_LONG[:20], seen_apart, TOO_LONG[20:]], 400, FailureReason.PROMPT_TOO_LONG),
        ([TOO_LONG, hang], 400, FailureReason.PROMPT_TOO_LONG),
        ([TOO_LONG, cut], 400, FailureReason.PROMPT_TOO_LONG),
        ([b"x" * 300_000] * 8 + [hang], 500, FailureReason.SERVER_ERROR),
        ([hang], 401, FailureReason.UNAUTHORIZED),
        ([cut], 503, FailureReason.OVERLOADED),
    ],
)
async def test_a_refusal_is_read_whole_or_as_far_as_it_comes(pieces, status, reason):
    refusing = in_pieces(*pieces, status=status)
    deadlines = Deadlines(connect=5, first_token=4, between_tokens=4, whole=20)
    assert await failure_of(refusing, deadlines) is reason
    async with serving(refusing, v1__models=refusing) as url:
        async with EngineClient(url, timeout_seconds=4) as client:
            with pytest.raises(EngineUnavailableError) as caught:
                await client.info()
    assert caught.value.reason == reason


async def test_a_packed_refusal_is_unpacked():
    async def chat(_request: web.Request) -> web.StreamResponse:
        body = gzip.compress(TOO_LONG)
        return web.Response(status=400, body=body, headers={"Content-Encoding": "gzip"})

    assert await failure_of(chat) is FailureReason.PROMPT_TOO_LONG
