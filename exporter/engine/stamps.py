"""aiohttp with the time of every byte: when the request left and when each part came back.

A stamp taken where the body is iterated waits for the HTTP parser, the future and the task that
wakes up, and for those of every other stream on the loop. Here it is taken in `data_received`,
before anything is parsed, and the parsing is put off until the answer ends or 50 ms have passed.

Only `TCPConnector._factory` and `ResponseHandler._payload` are not aiohttp's public names; the
tests of this module fail if an aiohttp release moves them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from aiohttp import TCPConnector
from aiohttp.client_proto import ResponseHandler

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.connector import Connection
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

_PARSE_DELAY = 0.05
"""Seconds that an arrival may wait to be parsed. In a crowd of streams the parser, the task and its
wake-up then stand between two stamps once per burst and not once per chunk; nothing that waits for
the parsed answer (a deadline, a progress line) needs it sooner."""

_LAST_CHUNK = b"0\r\n\r\n"
"""What ends a chunked HTTP body: then nothing is put off."""

_MOST_WAITING = 256 * 1024
"""Bytes that may wait to be parsed: a flood must not fill the memory in the meantime."""

now = time.perf_counter
"""The clock of all stamps, in seconds: the one that `SystemClock.monotonic` reads."""


@dataclass(slots=True)
class Exchange:
    """The stamps of one request and its answer.

    `sent_at` is when the request's last byte was handed to the socket. `marks` holds, for each
    arrival, the count of body bytes (decoded from chunks) that were there after it, and when.
    """

    sent_at: float | None = None
    reused: bool = False
    first_byte_at: float | None = None
    _ends: list[int] = field(default_factory=list)
    _times: list[float] = field(default_factory=list)

    def mark(self, body_bytes: int, at: float) -> None:
        """Note that after the arrival at `at` the body had `body_bytes` bytes."""
        if not self._ends or body_bytes > self._ends[-1]:
            self._ends.append(body_bytes)
            self._times.append(at)

    def arrival(self, body_bytes: int) -> float:
        """When the first `body_bytes` bytes of the body were all there."""
        return self._times[bisect_left(self._ends, body_bytes)]

    def last_arrival(self) -> float | None:
        """When the last body byte so far came."""
        return self._times[-1] if self._times else None


_exchange: ContextVar[Exchange] = ContextVar("exchange")


def observe(exchange: Exchange) -> None:
    """Let the next request of this task that goes through a `StampingConnector` fill `exchange`."""
    _exchange.set(exchange)


class _StampingTransport:
    """A transport that notes when a write began, and is the real one in all else.

    The stamp is taken before the write: the system call wakes the server, and on a busy machine
    the server runs before this process comes back from it. A stamp taken afterwards was seen to be
    later than the whole answer.
    """

    __slots__ = ("_handler", "_real")

    def __init__(self, real: asyncio.Transport, handler: _StampingHandler) -> None:
        self._real = real
        self._handler = handler

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._handler.exchange.sent_at = now()
        self._real.write(data)

    def writelines(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._handler.exchange.sent_at = now()
        self._real.writelines(chunks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _StampingHandler(ResponseHandler):
    """One connection: stamps first, parses afterwards."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchange = Exchange()
        self.used = False
        self._arrived: deque[tuple[float, bytes]] = deque()
        self._waiting_bytes = 0
        self._body: StreamReader | None = None

    def begin(self, exchange: Exchange) -> None:
        """From here on, what happens belongs to `exchange`."""
        exchange.reused = self.used
        self.used = True
        self.exchange = exchange
        self._body = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        real = cast("asyncio.Transport", transport)
        # With a limit of 0 the transport (asyncio's and uvloop's) writes at once, pauses us if a
        # byte has to wait and resumes us when the last one has gone to the kernel: then that
        # moment is what TTFT counts from.
        real.set_write_buffer_limits(high=0)
        super().connection_made(cast("asyncio.Transport", _StampingTransport(real, self)))

    def resume_writing(self) -> None:
        self.exchange.sent_at = now()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        at = now()
        if not data:  # aiohttp calls itself so to go on after a pause: nothing came
            super().data_received(data)
            return
        if self.exchange.first_byte_at is None:
            self.exchange.first_byte_at = at
        if not self._arrived:
            self._loop.call_later(_PARSE_DELAY, self._parse_arrived)
        self._arrived.append((at, data))
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _MOST_WAITING:
            self._parse_arrived()  # only what is parsed makes the connection pause
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
            # aiohttp lets go of the payload at its end, so the last one seen is kept.
            self._body = self._payload or self._body
            if self._body is not None:
                self.exchange.mark(self._body.total_bytes, at)


class StampingConnector(TCPConnector):
    """A TCPConnector whose connections write into the exchange that `observe` named."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = self._make_handler  # type: ignore[assignment]

    def _make_handler(self) -> _StampingHandler:
        return _StampingHandler(self._loop)

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
