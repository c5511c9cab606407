"""aiohttp with time stamps: when the request was sent and when each part of the answer came.

A stamp that is taken in the loop over the body comes late: after the HTTP parser, the future and
the task of this stream and of all other streams on the event loop. So it is taken in
`data_received`, before anything is parsed, and parsing waits until the answer ends or 50 ms passed.

A request is sent when the TCP transport has given its last byte to the kernel. A TLS transport does
not know that: it is empty as soon as everything is encrypted. So TLS is started on top of our own
TCP connection, and the TCP transport is asked in both cases.

Only `TCPConnector._factory`, `TCPConnector._wrap_create_connection` and `ResponseHandler._payload`
are not public in aiohttp. The tests of this module fail if an aiohttp release changes them.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from bisect import bisect_left
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientConnectorSSLError,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

_PARSE_DELAY = 0.05
"""Seconds that received bytes may wait to be parsed. With many streams, parsing then delays stamps
once per burst and not once per chunk. Deadlines and progress lines do not need the parsed answer
sooner."""

_LAST_CHUNK = b"0\r\n\r\n"
"""The end of a chunked HTTP body: then parsing does not wait."""

_MOST_WAITING = 256 * 1024
"""The most bytes that may wait to be parsed, so that a flood does not fill the memory."""

now = time.perf_counter
"""The clock of all stamps, in seconds. `SystemClock.monotonic` reads the same clock."""


@dataclass(slots=True)
class Exchange:
    """The time stamps of one request and its answer.

    `sent_at` is when the request's last byte went to the socket. `_ends` and `_times` hold, for
    each arrival, the number of body bytes after it (without chunk headers) and its time.
    """

    sent_at: float | None = None
    reused: bool = False
    first_byte_at: float | None = None
    _ends: list[int] = field(default_factory=list)
    _times: list[float] = field(default_factory=list)

    def mark(self, body_bytes: int, at: float) -> None:
        """Note that the body had `body_bytes` bytes at the time `at`."""
        if not self._ends or body_bytes > self._ends[-1]:
            self._ends.append(body_bytes)
            self._times.append(at)

    def arrival(self, body_bytes: int) -> float:
        """When the first `body_bytes` bytes of the body had arrived."""
        return self._times[bisect_left(self._ends, body_bytes)]

    def last_arrival(self) -> float | None:
        """When the latest body byte came; None before the first."""
        return self._times[-1] if self._times else None


_exchange: ContextVar[Exchange] = ContextVar("exchange")


def observe(exchange: Exchange) -> None:
    """Write the stamps of this task's next request over a `StampingConnector` into `exchange`."""
    _exchange.set(exchange)


class StampingTransport:
    """Wraps a transport and notes when a request was sent.

    `below` is the TCP transport: `real` itself, or under TLS the one that carries it. With a buffer
    limit of 0, asyncio's and uvloop's transports write at once, pause the protocol above if a byte
    must wait, and resume it when the last byte went to the kernel. TTFT then counts from that
    moment. Only pauses that a request caused count: under TLS a read can also cause a write, of a
    new key.

    The stamp is taken before the write, because the system call wakes the server. On a busy machine
    the server runs before this process continues: a stamp taken after the write was seen to be
    later than the whole answer.
    """

    __slots__ = ("_below", "_handler", "_real", "_unsent")

    def __init__(
        self, real: asyncio.Transport, below: asyncio.Transport, handler: _StampingHandler
    ) -> None:
        self._real = real
        self._below = below
        self._handler = handler
        self._unsent = False  # whether a part of the request still waits to be sent
        below.set_write_buffer_limits(high=0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._handler.exchange.sent_at = now()
        self._real.write(data)
        self._unsent = self._waits()

    def writelines(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._handler.exchange.sent_at = now()
        self._real.writelines(chunks)
        self._unsent = self._waits()

    def emptied(self, go_on: Callable[[], None]) -> None:
        """Called when the transport below is empty; `go_on` writes what was held back."""
        if self._unsent:
            self._handler.exchange.sent_at = now()
        go_on()
        self._unsent = self._unsent and self._waits()

    def _waits(self) -> bool:
        if self._real.is_closing():
            return False
        return bool(self._real.get_write_buffer_size() or self._below.get_write_buffer_size())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _BelowTLS(asyncio.BufferedProtocol):
    """Between the TCP transport and the TLS protocol: notes when the transport is empty."""

    def __init__(self, tls: asyncio.BufferedProtocol, wire: StampingTransport) -> None:
        self._tls = tls
        self._wire = wire
        self.get_buffer = tls.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = tls.buffer_updated  # type: ignore[method-assign]
        self.eof_received = tls.eof_received  # type: ignore[method-assign]
        self.connection_lost = tls.connection_lost  # type: ignore[method-assign]
        self.pause_writing = tls.pause_writing  # type: ignore[method-assign]

    def resume_writing(self) -> None:
        self._wire.emptied(self._tls.resume_writing)


class _StampingHandler(ResponseHandler):
    """One connection: takes the stamps first and parses later."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchange = Exchange()
        self.used = False
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._waiting_bytes = 0
        self._body: StreamReader | None = None
        self._tcp: StampingTransport | None = None

    def begin(self, exchange: Exchange) -> None:
        """From now on, write stamps into `exchange`."""
        exchange.reused = self.used
        self.used = True
        self.exchange = exchange
        self._body = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        real = cast("asyncio.Transport", transport)
        self._tcp = StampingTransport(real, real, self)
        super().connection_made(cast("asyncio.Transport", self._tcp))

    def secured(self, transport: asyncio.Transport, below: asyncio.Transport) -> None:
        """As `connection_made`, for a TLS transport and the TCP transport below it."""
        wire = StampingTransport(transport, below, self)
        below.set_protocol(_BelowTLS(cast("asyncio.BufferedProtocol", below.get_protocol()), wire))
        super().connection_made(cast("asyncio.Transport", wire))

    def resume_writing(self) -> None:
        if self._tcp is not None:
            self._tcp.emptied(super().resume_writing)
        else:
            super().resume_writing()

    def data_received(self, data: bytes) -> None:
        at = now()
        if not data:  # aiohttp calls this itself to go on after a pause: nothing came
            super().data_received(data)
            return
        if self.exchange.first_byte_at is None:
            self.exchange.first_byte_at = at
        if not self._arrived:
            self._loop.call_later(_PARSE_DELAY, self._parse_arrived)
        self._arrived.append((at, data))
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _MOST_WAITING:
            self._parse_arrived()  # a connection pauses only for parsed bytes
        elif data.endswith(_LAST_CHUNK):
            self._loop.call_soon(self._parse_arrived)

    def eof_received(self) -> None:
        self._parse_arrived()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._parse_arrived()
        super().connection_lost(exc)

    def _parse_arrived(self) -> None:
        self._waiting_bytes = 0
        while self._arrived:
            at, data = self._arrived.popleft()
            super().data_received(data)
            # aiohttp drops the payload at its end, so keep the last one.
            self._body = self._payload or self._body
            if self._body is not None:
                self.exchange.mark(self._body.total_bytes, at)


class StampingConnector(TCPConnector):
    """A TCPConnector whose connections write stamps into the exchange given to `observe`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = self._make_handler  # type: ignore[assignment]

    def _make_handler(self) -> _StampingHandler:
        return _StampingHandler(self._loop)

    async def _wrap_create_connection(
        self, *args: Any, req: ClientRequest, **options: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        """As in aiohttp, but TLS is started in a second step, so the TCP transport is known."""
        context = options.pop("ssl", None)
        hostname = options.pop("server_hostname", None)
        if context is None:
            return await super()._wrap_create_connection(*args, req=req, **options)
        below, _ = await super()._wrap_create_connection(asyncio.Protocol, req=req, **options)
        handler = self._make_handler()
        try:
            transport = await self._start_tls(below, handler, context, hostname, req)
        except BaseException:
            below.abort()
            raise
        handler.secured(transport, below)
        return transport, handler

    async def _start_tls(
        self,
        below: asyncio.Transport,
        handler: _StampingHandler,
        context: ssl.SSLContext,
        hostname: str | None,
        req: ClientRequest,
    ) -> asyncio.Transport:
        key = req.connection_key
        try:
            transport = await self._loop.start_tls(
                below, handler, context, server_hostname=hostname
            )
        except ssl.CertificateError as error:
            raise ClientConnectorCertificateError(key, error) from error
        except ssl.SSLError as error:
            raise ClientConnectorSSLError(key, error) from error
        except OSError as error:
            raise ClientConnectorError(key, error) from error
        if transport is None:  # asyncio: the connection was lost meanwhile
            raise ClientConnectorError(key, ConnectionResetError("the connection was lost"))
        return transport

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - the signature is aiohttp's
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        if isinstance(connection.protocol, _StampingHandler):
            connection.protocol.begin(_exchange.get())
        return connection
