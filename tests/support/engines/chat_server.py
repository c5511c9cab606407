"""A server whose chat completions do, piece by piece, what a test says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.failure import FailureReason

REQUEST = ChatRequest(
    model="tiny",
    messages=[{"role": "user", "content": "a secret prompt"}],
    max_tokens=4,
    cache_salt="salt",
    tools=[{"type": "function", "function": {"name": "f"}}],
)


PATIENT = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)


NO_FIRST_TOKEN = Deadlines(connect=60, first_token=0.3, between_tokens=60, whole=120)


NO_MORE_TOKENS = Deadlines(connect=60, first_token=60, between_tokens=0.3, whole=120)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(text: str | None = None, finish: str | None = None, **more: object) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


USAGE = b"data: " + json.dumps(
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
).encode() + b"\n\n"  # fmt: skip


DONE = b"data: [DONE]\n\n"


def streaming(*pieces: bytes | Callable[[web.Request], Awaitable[None]]) -> Handler:
    """A handler that writes bytes and, between them, does what the callables do."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in pieces:
            if callable(piece):
                await piece(request)
            else:
                await response.write(piece)
        return response

    return handle


async def cut(request: web.Request) -> None:
    """End the connection without a word."""
    assert request.transport is not None
    request.transport.abort()


async def hang(_request: web.Request) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(chat: Handler, **routes: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    for path, handler in routes.items():
        app.router.add_route("*", "/" + path.replace("__", "/"), handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def failure_of(chat: Handler, deadlines: Deadlines = PATIENT) -> FailureReason | None:
    async with serving(chat) as url, EngineClient(url) as client:
        failure = (await client.chat(REQUEST, deadlines)).failure
        return failure.reason if failure else None


async def models(_request: web.Request) -> web.StreamResponse:
    cards = [{"id": "tiny", "max_model_len": 8192}, {"id": "lora"}]
    return web.json_response({"object": "list", "data": cards})


async def version(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"version": "0.32.0"})
