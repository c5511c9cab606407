"""Limits for each client of the server: connections, time and memory.

aiohttp limits the size of a line, the size and the number of headers, and the time between two
requests. This module cuts a client that sends its request a byte at a time, a client that does not
read its answer, and, when there are too many connections, the one that has been idle longest.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import resource
import socket
import struct
import sys
import termios
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp.typedefs import Handler

log = structlog.stdlib.get_logger(__name__)


MOST_CONNECTIONS = 256


def connections_at_a_time() -> int:
    """At most half of the process's file descriptors: the engines need the rest."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, descriptors // 2))


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for clients. Prometheus needs one connection and a second."""

    connections: int = field(default_factory=connections_at_a_time)
    """Open at a time, of all clients together."""

    handshake_seconds: float = 5.0
    """For a TLS handshake."""

    request_seconds: float = 10.0
    """From the start of the connection or the first byte of a request to the end of its headers."""

    request_bytes: int = 1 << 16
    """For a request with its headers: at most 64 headers, and at most 8190 bytes for a line or a
    header."""

    idle_seconds: float = 120.0
    """Between two requests: longer than most scrape intervals, so Prometheus stays connected."""

    send_seconds: float = 30.0
    """For the client to read an answer."""


class Connection(web.RequestHandler):
    """One client's connection: aiohttp's, with these limits."""

    def __init__(self, connections: Connections, server: web.Server) -> None:
        limits = connections.limits
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=cast("logging.Logger", None),  # as aiohttp switches it off
            logger=_LOGGER,
            keepalive_timeout=limits.idle_seconds,
            max_line_size=8190,
            max_field_size=8190,
            max_headers=64,
            lingering_time=1.0,  # to read the rest of a body, which no page here needs
        )
        self._connections = connections
        self._limits = limits
        self._wire: asyncio.Transport | None = None
        self._request_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._received = 0  # bytes since the last request was complete
        self._answering = False
        self._cancelled: asyncio.Task[object] | None = None  # if the client disconnects

    @property
    def idle(self) -> bool:
        """Whether no request and no answer is under way."""
        return not self._answering and self._send_timer is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        # So that pause_writing is called as soon as bytes wait to be sent, and resume_writing when
        # none wait. Not 0: for TLS an empty buffer would then count as full.
        self._wire.set_write_buffer_limits(high=1, low=0)
        self._expect_request()
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._answering:
            self._received += len(data)
            if self._received > self._limits.request_bytes:
                self.cut("the request is too large")
                return
            if self._request_timer is None:
                self._expect_request()
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self._later(self._limits.send_seconds, "the answer is not read")

    def resume_writing(self) -> None:
        super().resume_writing()
        _stop(self._send_timer)
        self._send_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._request_timer, self._send_timer, self._unread_timer):
            _stop(timer)
        self._wire = None
        if self._cancelled is not None:
            self._cancelled.cancel()
        self._connections.closed(self)
        super().connection_lost(exc)

    def answering(self) -> None:
        """A request is complete."""
        self._answering = True
        self._received = 0
        _stop(self._request_timer)
        self._request_timer = None

    def answered(self) -> None:
        """The answer is complete and is being sent."""
        self._answering = False
        _stop(self._unread_timer)
        self._unread_timer = asyncio.get_running_loop().call_later(
            self._limits.send_seconds, self._cut_if_unread
        )
        self._connections.used(self)

    @contextmanager
    def cancelling(self) -> Iterator[None]:
        """Cancel the current task if the client disconnects meanwhile."""
        self._cancelled = asyncio.current_task()
        try:
            yield
        finally:
            self._cancelled = None

    def cut(self, why: str) -> None:
        """End the connection at once, even where bytes wait to be sent."""
        if self._wire is not None:
            log.debug("http.cut", why=why, client=str(self.peername))
            # With a reset: otherwise the kernel keeps the unsent bytes for minutes.
            self._wire.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's signature
    ) -> web.StreamResponse:
        """The answer to bytes that are not HTTP. aiohttp's quotes them and shows its version."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer has been sent already")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("http.failed", method=request.method, path=request.path, exc_info=exc)
        else:
            log.debug("http.bad_request", status=status, error=type(exc).__name__)
        response = web.Response(
            status=status, text=f"{status}\n", headers={"Server": "vllm-cache-exporter"}
        )
        response.force_close()
        return response

    def _expect_request(self) -> None:
        self._request_timer = self._later(self._limits.request_seconds, "the request is not sent")

    def _cut_if_unread(self) -> None:
        """Cut a client that has not read its answer. Over TLS this is the only sign of it."""
        if not self._answering and self._wire is not None and _unsent(self._wire):
            self.cut("the answer is not read")

    def _later(self, seconds: float, why: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self.cut, why)


class Connections:
    """All connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Connection, None] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._open)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The outermost one: it marks a connection as busy while its request is answered."""
        connection = request.protocol
        if not isinstance(connection, Connection):  # in tests with another server
            return await handler(request)
        connection.answering()
        try:
            return await handler(request)
        finally:
            connection.answered()

    def opened(self, connection: Connection) -> None:
        """Add a connection. Where there are too many, cut the one that has been idle longest, or
        this one where none is idle.
        """
        if len(self._open) >= self.limits.connections:
            idle = next((each for each in self._open if each.idle), connection)
            self._open.pop(idle, None)
            idle.cut("too many connections")
            if idle is connection:
                return
        self._open[connection] = None

    def used(self, connection: Connection) -> None:
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def closed(self, connection: Connection) -> None:
        self._open.pop(connection, None)


def _unsent(wire: asyncio.Transport) -> int:
    """Bytes that the kernel holds until the client reads them; 0 where this is unknown."""
    try:
        answer = fcntl.ioctl(wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class _Quiet(logging.Logger):
    """Logs aiohttp's errors without the quoted request, and those that a client causes at debug."""

    def exception(self, msg: object, *_args: Any, **more: Any) -> None:
        error = more.get("exc_info")
        if isinstance(error, _CAUSED_BY_CLIENTS):
            log.debug("http.error", message=str(msg), error=type(error).__name__)
        else:
            log.error("http.failed", message=str(msg), exc_info=error)


_CAUSED_BY_CLIENTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
_LOGGER = _Quiet("exporter.http")
