"""The bounds over TLS, and on uvloop, whose transports are others than asyncio's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
import uvloop
from aiohttp import web
from web_files import CERTIFICATES, TLS, write

from exporter.config.web_config import read_web_config
from exporter.publish.connections import Limits
from exporter.publish.server import HttpServer

PATIENCE = 30.0  # seconds; a bound for what takes a fraction of one
SIZES = {"/empty": 0, "/small": 10, "/page": 50_000, "/large": 1 << 20, "/huge": 32 << 20}


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request):
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@pytest.fixture(params=["clear", "TLS"])
def tls(request, tmp_path):
    """The server's web configuration and the client's context, both None in the clear."""
    if request.param == "clear":
        return None, None
    return (
        read_web_config(write(tmp_path, TLS)),
        ssl.create_default_context(cafile=CERTIFICATES / "ca.pem"),
    )


@contextlib.asynccontextmanager
async def connected(tls, **limits):
    """A client's streams."""
    app = web.Application()

    async def sized(request):
        return web.Response(body=b"x" * SIZES[request.path])

    for path in SIZES:
        app.router.add_get(path, sized)
    web_config, context = tls
    server = HttpServer(app, web_config=web_config, limits=Limits(**limits))
    await server.start("localhost", 0)
    reader, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
    try:
        async with asyncio.timeout(PATIENCE):
            yield reader, writer
    finally:
        writer.transport.abort()
        await server.stop()


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_one_connection_serves_answers_of_every_size(runner, tls):
    async def scene():
        async with connected(tls) as (reader, writer):
            for path in [*SIZES, *reversed(SIZES)]:
                writer.write(request(path))
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                await reader.readexactly(SIZES[path])

    runner.run(scene())


def test_a_client_that_does_not_read_is_cut(runner, tls):
    async def scene():
        async with connected(tls, send_seconds=0.3) as (reader, writer):
            writer.transport.pause_reading()
            writer.write(request("/huge"))
            await asyncio.sleep(1)  # the deadline is the server's, and it passes in silence
            writer.transport.resume_reading()
            got = 0
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(1 << 20):
                    got += len(chunk)
            assert got < SIZES["/huge"]

    runner.run(scene())


def test_a_client_that_has_read_all_is_not_cut_for_it(runner, tls):
    async def scene():
        async with connected(tls, send_seconds=0.3) as (reader, writer):
            for _ in range(2):
                writer.write(request("/large"))
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(SIZES["/large"])
                await asyncio.sleep(0.6)  # twice the deadline

    runner.run(scene())
