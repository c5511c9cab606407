"""The limits for each client, tested with raw sockets that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from exporter.web.connections import Limits
from exporter.web.server import HttpServer

PATIENCE = 30.0  # seconds; the limit of a wait that takes a fraction of one
REQUEST = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def serve(published):
    """Start the server with these limits, and answer with a function that connects to it."""
    servers, writers = [], []

    async def big(_request):
        return web.Response(body=b"x" * (64 << 20))  # more than the kernel buffers

    published.app.router.add_get("/big", big)

    async def start(**limits):
        server = HttpServer(published.app, limits=Limits(**limits))
        await server.start("127.0.0.1", 0)
        servers.append(server)

        async def connect():
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writers.append(writer)
            return reader, writer

        return connect

    yield start
    for writer in writers:
        writer.transport.abort()
    for server in servers:
        await server.stop()


async def ended(reader) -> bytes:
    """All bytes until the server ends the connection."""
    async with asyncio.timeout(PATIENCE):
        got = b""
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                got += chunk
        return got


async def until_answered(reader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
        return head + await reader.readexactly(len(b"healthy\n"))


async def drip(writer, pieces) -> None:
    """Send a piece every few hundredths of a second until the server ends the connection."""
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_a_request_that_is_sent_a_byte_at_a_time_is_cut(serve):
    reader, writer = await (await serve(request_seconds=0.2))()
    endless = (b"GET / HTTP/1.1\r\n", *(b"X-%d: y\r\n" % each for each in range(10_000)))
    sending = asyncio.create_task(drip(writer, endless))
    assert await ended(reader) == b""
    await asyncio.wait_for(sending, PATIENCE)


async def test_a_connection_without_a_request_is_cut(serve):
    reader, _ = await (await serve(request_seconds=0.1))()
    assert await ended(reader) == b""


async def test_an_idle_connection_is_closed(serve):
    reader, writer = await (await serve(request_seconds=20, idle_seconds=0.1))()
    writer.write(REQUEST)
    assert (await ended(reader)).endswith(b"healthy\n")


@pytest.mark.parametrize("keep_alive", [b"keep-alive", b"close"])
async def test_a_client_that_does_not_read_its_answer_is_cut(serve, keep_alive):
    reader, writer = await (await serve(send_seconds=0.2))()
    writer.transport.pause_reading()
    writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n" % keep_alive)
    async with asyncio.timeout(PATIENCE):
        while not is_cut(writer):  # noqa: ASYNC110 - nothing tells a client that does not read
            await asyncio.sleep(0.01)
    writer.transport.resume_reading()
    assert len(await ended(reader)) < 64 << 20


def is_cut(writer) -> bool:
    """Whether the server has reset the connection: TCP_INFO's first byte is the state, 7 closed."""
    sock = writer.get_extra_info("socket")
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7


async def test_a_client_that_reads_slowly_but_reads_gets_all_of_it(serve):
    reader, writer = await (await serve(send_seconds=20))()
    writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    got = 0
    async with asyncio.timeout(PATIENCE):
        while chunk := await reader.read(1 << 20):
            got += len(chunk)
            await asyncio.sleep(0.001)
    assert got > 64 << 20


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(70)) + b"\r\n", b"400"),
        (b"canary\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET / HTTP/1.1\r\nAuthorization: canary\x00\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n", b"405"),
    ],
    ids=["line", "header", "headers", "no HTTP", "TLS", "bad header", "body"],
)
async def test_a_request_that_is_too_large_or_not_http_gets_a_short_error(
    serve, request_text, status, caplog
):
    caplog.set_level(logging.DEBUG)
    reader, writer = await (await serve(request_seconds=5))()
    writer.write(request_text)
    answer = await ended(reader)
    assert answer.split()[1] == status
    assert b"canary" not in answer
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    assert "canary" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_request_that_only_grows_is_cut(serve):
    reader, writer = await (await serve(request_bytes=20_000))()
    headers = b"".join(b"X%d: %s\r\n" % (n, b"y" * 4000) for n in range(6))
    with contextlib.suppress(ConnectionError):
        writer.write(b"GET / HTTP/1.1\r\n" + headers)
        await writer.drain()
    assert await ended(reader) == b""


async def test_a_new_connection_is_served_and_the_one_that_is_idle_longest_is_cut(serve):
    connect = await serve(connections=3)
    clients = []
    for _ in range(3):
        reader, writer = await connect()
        writer.write(REQUEST)
        await until_answered(reader)
        clients.append((reader, writer))
    first = clients[0]
    first[1].write(REQUEST)  # of these three the second has now been idle longest
    await until_answered(first[0])
    reader, writer = await connect()
    writer.write(REQUEST)
    assert (await until_answered(reader)).startswith(b"HTTP/1.1 200")
    assert await ended(clients[1][0]) == b""
    for reader, writer in (first, clients[2]):
        writer.write(REQUEST)
        assert (await until_answered(reader)).startswith(b"HTTP/1.1 200")


async def test_a_new_connection_is_cut_where_all_others_are_busy(serve, published):
    release = asyncio.Event()

    async def busy(_request):
        await release.wait()
        return web.Response(text="healthy\n")

    published.app.router.add_get("/busy", busy)
    connect = await serve(connections=1)
    reader, writer = await connect()
    writer.write(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        while True:  # the connection is busy once its request has come
            late, other = await connect()
            other.write(REQUEST)
            refused = await ended(late) == b""
            if refused:
                break
            reader, writer = await connect()
            writer.write(b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
    release.set()
    assert (await until_answered(reader)).startswith(b"HTTP/1.1 200")


async def test_an_unexpected_exception_outside_the_pages_is_logged_with_its_trace(serve, published):
    async def broken(_request, _response):
        raise RuntimeError("the secret inside")

    published.app.on_response_prepare.append(broken)
    reader, writer = await (await serve())()
    with capture_logs() as logged:
        writer.write(REQUEST)
        assert await ended(reader) == b""
    assert [(line["event"], line["log_level"]) for line in logged] == [("http.failed", "error")]
    assert isinstance(logged[0]["exc_info"], RuntimeError)


async def test_a_client_that_disconnects_within_a_body_is_not_logged_as_an_error(serve):
    connect = await serve()
    reader, writer = await connect()
    with capture_logs() as logged:
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"405 Method Not Allowed\n")
        writer.transport.abort()
        other, to_other = await connect()
        to_other.write(REQUEST)
        await until_answered(other)
    assert [line for line in logged if line["log_level"] != "debug"] == []


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(1024, 256), (512, 256), (511, 255), (64, 32), (1, 1), (resource.RLIM_INFINITY, 256)],
)
def test_the_connections_leave_half_of_the_descriptors_to_the_engines(
    monkeypatch, descriptors, connections
):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, resource.RLIM_INFINITY))
    assert Limits().connections == connections
