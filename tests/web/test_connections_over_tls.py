"""The limits over TLS, and on uvloop, whose transports differ from asyncio's.

The server's deadlines are so long that they never pass by themselves: the test lets them expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
from aiohttp import web
from held_timers import LONG, HeldAsyncio, HeldUvloop
from web_files import CERTIFICATES, TLS, write

from exporter.web import connections
from exporter.web.access.configuration import read_web_config
from exporter.web.connections import Limits
from exporter.web.server import HttpServer

PATIENCE = 30.0  # seconds; the limit of a wait that takes a fraction of one
SIZES = {"/empty": 0, "/small": 10, "/page": 50_000, "/large": 1 << 20, "/huge": 32 << 20}


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request):
    factory = HeldUvloop if request.param == "uvloop" else HeldAsyncio
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@pytest.fixture(params=["clear", "TLS"])
def tls(request, tmp_path):
    """The server's web configuration and the client's context, both None without TLS."""
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
            writer.unsent = lambda: sum(map(unsent, server._connections._open))
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


def unsent(connection) -> int:
    """Bytes of answers that its client has not acknowledged."""
    return 0 if connection._wire is None else connections._unsent(connection._wire)


async def until(holds) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what is waited for happens at the other end
            await asyncio.sleep(0.001)


def test_a_client_that_does_not_read_is_cut(runner, tls):
    async def scene():
        async with connected(tls, send_seconds=LONG) as (reader, writer):
            loop = asyncio.get_running_loop()
            writer.transport.pause_reading()
            writer.write(request("/huge"))
            await until(lambda: loop.held() > 0)  # the answer waits to be read
            loop.let_expire()
            writer.transport.resume_reading()
            got = 0
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(1 << 20):
                    got += len(chunk)
            assert got < SIZES["/huge"]

    runner.run(scene())


async def read_answer(reader, path: str) -> None:
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await reader.readexactly(SIZES[path])


def test_a_client_that_has_read_everything_is_not_cut(runner, tls):
    async def scene():
        async with connected(tls, send_seconds=LONG) as (reader, writer):
            loop = asyncio.get_running_loop()
            for _ in range(2):
                writer.write(request("/large"))
                await read_answer(reader, "/large")
                # The server checks whether it was read, and the kernel says that it was.
                await until(lambda: loop.held() > 0 and writer.unsent() == 0)
                loop.let_expire()
            writer.write(request("/small"))
            await read_answer(reader, "/small")

    runner.run(scene())


def test_an_unfinished_second_request_is_cut(runner, tls):
    async def scene():
        async with connected(tls, request_seconds=LONG) as (reader, writer):
            loop = asyncio.get_running_loop()
            writer.write(request("/small"))
            await read_answer(reader, "/small")
            await until(lambda: loop.held() == 0)
            writer.write(b"GET / HTTP/1.1\r\nX: y")
            await until(lambda: loop.held() > 0)
            writer.write(b"yyy")
            loop.let_expire()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""

    runner.run(scene())


def test_a_connection_in_use_survives_the_deadlines_of_its_requests(runner, tls):
    async def scene():
        async with connected(tls, request_seconds=LONG) as (reader, writer):
            loop = asyncio.get_running_loop()
            for _ in range(3):
                writer.write(request("/small"))
                await read_answer(reader, "/small")
                await until(
                    lambda: loop.held() == 0
                )  # no request is awaited, so no deadline can end it
                loop.let_expire()

    runner.run(scene())
