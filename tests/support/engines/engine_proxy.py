"""What may stand between the exporter and a vLLM: a load balancer, or a proxy that drops fields."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

Json = dict[str, Any]


def in_turn(upstreams: Sequence[str]) -> Callable[[str], str]:
    """Each request to the next upstream; those of /metrics have a turn of their own."""
    turns: dict[bool, Iterator[str]] = {kind: itertools.cycle(upstreams) for kind in (True, False)}
    return lambda path: next(turns[path == "/metrics"])


def chats_in_turn(upstreams: Sequence[str]) -> Callable[[str], str]:
    """Each chat to the next upstream, and all else to the first: a router without affinity."""
    turns = itertools.cycle(upstreams)
    return lambda path: next(turns) if path.endswith("/chat/completions") else upstreams[0]


def by_session(upstreams: Sequence[str], header: str) -> Callable[[web.Request], str]:
    """A router with affinity: all requests with the same value of a header go to one upstream.

    Each new value gets the next upstream, and a request without the header the next, too.
    """
    turns, known = itertools.cycle(upstreams), dict[str, str]()

    def route(request: web.Request) -> str:
        if not request.path.endswith("/chat/completions"):
            return upstreams[0]
        session = request.headers.get(header)
        if session is None:
            return next(turns)
        if session not in known:
            known[session] = next(turns)
        return known[session]

    return route


def without_token_ids(chunk: Json) -> Json:
    """A chunk as vLLM sent them before 0.10.2."""
    chunk = {key: value for key, value in chunk.items() if key != "prompt_token_ids"}
    for choice in chunk.get("choices", []):
        choice.pop("token_ids", None)
    return chunk


@contextlib.asynccontextmanager
async def engine_proxy(
    choose: Callable[[str], str],
    edit: Callable[[Json], Json] = lambda chunk: chunk,
    tls: ssl.SSLContext | None = None,
    route: Callable[[web.Request], str] | None = None,
) -> AsyncIterator[str]:
    """The URL of a proxy before the engine that `choose` names for a path; `edit` changes chunks.
    `route` chooses by the whole request, in place of `choose`.

    With `tls` the proxy is reached by https.
    """
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            chosen = choose(request.path) if route is None else route(request)
            url = chosen + request.path_qs
            headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
            body = await request.read()
            async with session.request(request.method, url, data=body, headers=headers) as upstream:
                kind = upstream.headers.get("Content-Type", "")
                if not kind.startswith("text/event-stream"):
                    page = await upstream.read()
                    return web.Response(
                        body=page, status=upstream.status, headers={"Content-Type": kind}
                    )
                response = web.StreamResponse(headers={"Content-Type": kind})
                await response.prepare(request)
                async for line in upstream.content:
                    await response.write(_edited(line, edit))
                await response.write_eof()
                return response

        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", forward)
        server = TestServer(app)
        await server.start_server(ssl=tls)
        async with server:
            yield str(server.make_url("")).rstrip("/")


def _edited(line: bytes, edit: Callable[[Json], Json]) -> bytes:
    data = line.removeprefix(b"data: ").strip()
    if not line.startswith(b"data: {"):
        return line
    return b"data: " + json.dumps(edit(json.loads(data))).encode() + b"\n"
