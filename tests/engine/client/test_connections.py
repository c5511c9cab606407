"""Connections that cannot be opened, are kept or are closed, and certificates."""

import asyncio
import socket
import ssl

import pytest
from aiohttp import web
from chat_server import DONE, NO_FIRST_TOKEN, PATIENT, REQUEST, chunk, cut, hang, serving, streaming

from exporter.engine.client.deadline_timer import DeadlineTimer
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.errors import EngineUnavailableError
from exporter.model.failure import FailureReason


async def test_a_refused_connection_names_the_address():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with EngineClient(f"http://127.0.0.1:{port}") as client:
        got = await client.chat(REQUEST, PATIENT)
        assert got.failure.reason is FailureReason.CONNECTION_REFUSED
        assert f"127.0.0.1:{port}" in got.failure.detail
        assert got.sent_at is None
        with pytest.raises(EngineUnavailableError) as caught:
            await client.metrics()
    assert caught.value.reason == FailureReason.CONNECTION_REFUSED


async def test_a_host_that_does_not_exist_is_a_failed_connection():
    async with EngineClient("http://no-such-host.invalid") as client:
        got = await client.chat(REQUEST, Deadlines())
    assert got.failure.reason is FailureReason.CONNECT_FAILED


async def test_plain_http_behind_an_https_url_is_a_failed_connection():
    async with serving(streaming(DONE)) as url:
        async with EngineClient(url.replace("http:", "https:")) as client:
            got = await client.chat(REQUEST, PATIENT)
    assert got.failure.reason is FailureReason.CONNECT_FAILED


async def test_a_listener_that_never_accepts_is_a_connect_timeout():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fill = [socket.socket() for _ in range(8)]
    for each in fill:
        each.setblocking(False)
        each.connect_ex(listener.getsockname())  # the queue of an idle listener fills up
    try:
        async with EngineClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            got = await client.chat(REQUEST, Deadlines(connect=0.3))
    finally:
        for each in [*fill, listener]:
            each.close()
    assert got.failure.reason is FailureReason.CONNECT_TIMEOUT


async def test_a_kept_alive_connection_that_the_server_closed_is_not_a_failed_turn():
    """The server ends the first connection as the second request arrives on it."""
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 2:
            await cut(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        assert (await client.chat(REQUEST, PATIENT)).failure is None
    assert requests == 3


async def test_a_deadline_on_a_kept_connection_passes_only_once():
    """Nor is the prompt sent a second time: the engine may have it in its cache by then."""
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 2:
            await hang(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        got = await client.chat(REQUEST, NO_FIRST_TOKEN)
    assert got.failure.reason is FailureReason.FIRST_TOKEN_TIMEOUT
    assert not got.sent_twice
    assert requests == 2


async def test_a_request_is_not_sent_again_after_its_answer_began():
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        end = [chunk("one", "stop"), DONE] if requests == 1 else [b": wait\n\n", cut]
        return await streaming(*end)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        got = await client.chat(REQUEST, PATIENT)
    assert got.failure.reason is FailureReason.STREAM_CUT
    assert requests == 2


async def test_a_chat_says_that_the_server_may_have_got_its_prompt_twice():
    """It reads the second request whole and closes; from then on each has its own connection."""
    peers: list[object] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        peers.append(request.transport.get_extra_info("peername"))
        await request.read()
        if len(peers) == 2:
            await cut(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        chats = [await client.chat(REQUEST, PATIENT) for _ in range(4)]
    assert [got.failure for got in chats] == [None] * 4
    assert [got.sent_twice for got in chats] == [False, True, False, False]
    assert peers[0] == peers[1]
    assert len(set(peers)) == 4


async def test_a_server_that_closes_a_kept_connection_late_has_failed(monkeypatch):
    """No server that merely ends a kept-alive connection takes that long."""
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 2:
            monkeypatch.setattr(DeadlineTimer, "elapsed", lambda _watch: PATIENT.connect + 1)
            await cut(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        got = await client.chat(REQUEST, PATIENT)
    assert got.failure.reason is FailureReason.STREAM_CUT
    assert requests == 2


async def test_turns_of_one_session_share_a_connection():
    peers: set[object] = set()

    async def chat(request: web.Request) -> web.StreamResponse:
        peers.add(request.transport.get_extra_info("peername"))
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        for _ in range(3):
            await client.chat(REQUEST, PATIENT)
    assert len(peers) == 1


async def test_an_unknown_certificate_is_refused_unless_it_is_configured(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", streaming(chunk("one", "stop"), DONE))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://localhost:{runner.addresses[0][1]}"
    try:
        async with EngineClient(url) as client:
            got = await client.chat(REQUEST, PATIENT)
            assert got.failure.reason is FailureReason.CONNECT_FAILED
        async with EngineClient(url, verify_tls=False) as client:
            assert (await client.chat(REQUEST, PATIENT)).failure is None
        async with EngineClient(url, ca_file=str(certificate)) as client:
            got = await client.chat(REQUEST, Deadlines())
            assert got.failure is None
            assert got.sent_at < got.token_times[0]
    finally:
        await runner.cleanup()
