"""The time of every byte, in the clear and over TLS, on both event loops.

What is asserted is an order of moments that the server and the client saw on one clock: a slow
machine moves them apart, and never past each other.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import chain, pairwise

import pytest
import uvloop
from stamped_server import (
    AUTHORITY,
    end_of_stream,
    server_tls,
    stamped_server,
    text_chunk,
    url_of,
)

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.client.stamps import Exchange, StampingTransport, now
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.chat import Chat
from exporter.model.failure import Failure, FailureReason
from exporter.model.session import ControlOutcome
from exporter.probe.session.cold_control import control_facts

PATIENT = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)
PIECES = {
    "one chunk": [text_chunk("all", "stop") + end_of_stream()],
    "many chunks": [text_chunk(f"{number} ") for number in range(4)] + [end_of_stream()],
}


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request):
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@pytest.fixture(params=["http", "https"])
def tls(request):
    return request.param == "https"


def asking(size: int) -> ChatRequest:
    return ChatRequest("m", [{"role": "user", "content": "x" * size}], 16)


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("size", [100, 2 << 20], ids=["small prompt", "2 MB prompt"])
def test_each_stamp_of_a_request_lies_between_those_of_the_server(runner, tls, size, pieces):
    """Sent before the server had all of it; each chunk stamped before the server sent the next."""

    async def scene():
        taken: asyncio.Queue[int] = asyncio.Queue()
        async with (
            stamped_server(pieces, taken.get, tls=tls) as server,
            EngineClient(server.url, ca_file=AUTHORITY) as client,
        ):
            for served in range(3):  # the second and third on a connection that was used before
                started = now()
                chat = await client.chat(asking(size), PATIENT, taken.put_nowait)
                assert chat.failure is None
                there = server.served[served]
                texts = there.sent_at[: len(chat.token_times)]
                in_turn = chain.from_iterable(zip(texts, chat.token_times, strict=True))
                moments = [started, chat.sent_at, there.read_at, *in_turn, chat.finished_at, now()]
                assert all(earlier <= later for earlier, later in pairwise(moments)), moments
                while not taken.empty():
                    taken.get_nowait()

    runner.run(scene())


def test_a_request_is_sent_when_its_last_byte_has_left_and_not_its_first(runner, tls):
    """The prompt is larger than all buffers on the way, so the server has read of it by then."""

    async def scene():
        async with (
            stamped_server(PIECES["one chunk"], asyncio.Event().wait, tls=tls) as server,
            EngineClient(server.url, ca_file=AUTHORITY) as client,
        ):
            for served in range(2):
                chat = await client.chat(asking(16 << 20), PATIENT)
                assert chat.failure is None
                there = server.served[served]
                assert there.head_at < chat.sent_at <= there.read_at

    runner.run(scene())


def test_a_deadline_within_a_long_prompt_leaves_nothing_behind(runner, tls):
    """The server takes none of it; the connection goes, and with it what waited to be sent."""

    async def scene():
        wrong = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: wrong.append(context)
        )
        ended = asyncio.Event()

        async def take_nothing(reader, writer):
            writer.transport.pause_reading()
            await ended.wait()
            writer.transport.abort()

        server = await asyncio.start_server(
            take_nothing, "127.0.0.1", 0, ssl=server_tls() if tls else None
        )
        soon = replace(PATIENT, first_token=0.5)
        async with server, EngineClient(url_of(server, tls=tls), ca_file=AUTHORITY) as client:
            chat = await client.chat(asking(16 << 20), soon)
            ended.set()
        assert chat.failure.reason is FailureReason.FIRST_TOKEN_TIMEOUT
        assert wrong == []

    runner.run(scene())


class FakeTransport(asyncio.Transport):
    """Keeps what is written until it is told that the kernel took it."""

    def __init__(self):
        super().__init__()
        self.waiting = 0
        self.limits = None

    def write(self, data):
        self.waiting += len(data)

    def get_write_buffer_size(self):
        return self.waiting

    def is_closing(self):
        return False

    def set_write_buffer_limits(self, high=None, low=None):
        self.limits = (high, low)


class FakeHandler:
    def __init__(self):
        self.exchange = Exchange()


@pytest.fixture
def wire():
    """A stamping transport over TLS: the layer of TLS, the TCP transport, and the whole."""
    tls, tcp, handler = FakeTransport(), FakeTransport(), FakeHandler()
    return tls, tcp, handler.exchange, StampingTransport(tls, tcp, handler)


def test_the_tcp_transport_writes_at_once(wire):
    _, tcp, _, _ = wire
    assert tcp.limits == (0, None)


def test_a_write_after_the_request_does_not_move_the_stamp(wire):
    """As where TLS answers with a new key while the server takes nothing."""
    tls, tcp, exchange, transport = wire
    transport.write(b"request")
    tls.waiting, tcp.waiting = 0, 7  # encrypted; the kernel takes it later
    first = exchange.sent_at
    tcp.waiting = 0
    transport.emptied(lambda: None)
    sent = exchange.sent_at
    assert sent > first
    tcp.waiting = 30  # a key
    tcp.waiting = 0
    transport.emptied(lambda: None)
    assert exchange.sent_at == sent


def test_bytes_that_tls_held_back_move_the_stamp_to_when_they_left(wire):
    tls, tcp, exchange, transport = wire
    transport.write(b"request")
    tls.waiting, tcp.waiting = 3, 4

    def held_back():
        tls.waiting, tcp.waiting = 0, 3

    tcp.waiting = 0
    transport.emptied(held_back)
    sent = exchange.sent_at
    tcp.waiting = 0
    transport.emptied(lambda: None)
    assert exchange.sent_at > sent


def test_a_request_that_left_at_once_is_stamped_before_its_write(wire):
    tls, _, exchange, transport = wire
    wrote = []

    def write(data):
        wrote.append(now())

    tls.write = write
    transport.write(b"request")
    transport.emptied(lambda: None)
    assert exchange.sent_at < wrote[0]


def test_a_server_that_hangs_up_in_or_after_the_handshake_is_a_failed_request(runner):
    async def scene():
        async def hang_up(_reader, writer):
            writer.transport.abort()

        for context in (None, server_tls()):
            server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
            async with server, EngineClient(url_of(server), ca_file=AUTHORITY) as client:
                chat = await client.chat(asking(10), PATIENT)
            assert chat.failure.reason in {FailureReason.CONNECT_FAILED, FailureReason.STREAM_CUT}

    runner.run(scene())


def test_an_answer_that_precedes_its_request_is_the_exporters_own_failure(runner, monkeypatch):
    """As if a stamp of the sending could still move: nothing may be made of such times."""
    monkeypatch.setattr(StampingTransport, "write", _write_late)

    async def scene():
        async with (
            stamped_server(PIECES["one chunk"], asyncio.Event().wait, tls=False) as server,
            EngineClient(server.url) as client,
        ):
            chat = await client.chat(asking(10), PATIENT)
            assert chat.failure.reason is FailureReason.INTERNAL
            assert "before the request was sent" in chat.failure.detail
            control = control_facts(chat, before_turn=False)
            assert control.outcome is ControlOutcome.FAILED
            assert control.ttft_seconds is None

    runner.run(scene())


def _write_late(transport, data):
    transport._handler.exchange.sent_at = now() + 3600
    transport._real.write(data)


@pytest.mark.parametrize(
    ("sent_at", "token_times", "finished_at"),
    [(None, (2.0,), 3.0), (2.5, (2.0,), 3.0), (3.5, (), 3.0), (3.5, (4.0,), 3.0)],
)
def test_no_whole_answer_has_impossible_times(sent_at, token_times, finished_at):
    chat = Chat(sent_at, token_times, finished_at, None, "stop", None, None, {}, None)
    assert chat.failure.reason is FailureReason.INTERNAL


def test_the_failure_of_a_request_that_never_left_stays_its_own():
    refused = Failure(FailureReason.CONNECTION_REFUSED, "nothing listens")
    chat = Chat(None, (), 3.0, None, None, None, None, {}, refused)
    assert chat.failure is refused
