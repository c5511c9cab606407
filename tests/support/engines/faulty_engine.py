"""A small engine on raw sockets: it misbehaves as it is told to, and is sound in all else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CHAT, METRICS = "/v1/chat/completions", "/metrics"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done instead of a sound answer, where something is. `refuse`: nobody listens."""

    chat: Act | None = None
    metrics: Act | None = None
    rest: Act | None = None
    refuse: bool = False

    def act(self, path: str) -> Act | None:
        return {CHAT: self.chat, METRICS: self.metrics}.get(path, self.rest)


class FaultyEngine:
    """`fault` holds for the requests from then on; without one it is sound."""

    def __init__(self, fault: Fault | None = None) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))  # bound, and refused until somebody listens
        self._server: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.fault = fault
        self.paths: list[str] = []

    async def start(self) -> None:
        if self.fault is None or not self.fault.refuse:
            self._server = await asyncio.start_server(self._serve, sock=self._socket)

    async def recover(self) -> None:
        """From now on, a sound engine."""
        self.fault = None
        if self._server is None:
            await self.start()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            path = head.split(b" ", 2)[1].decode()
            self.paths.append(path)
            act = None if self.fault is None else self.fault.act(path)
            await (act or _sound(path, body))(reader, writer)
        writer.close()


@contextlib.asynccontextmanager
async def serving(engines: list[FaultyEngine]) -> AsyncIterator[None]:
    try:
        for engine in engines:
            await engine.start()
        yield
    finally:
        for engine in engines:
            await engine.stop()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the connection in a reset."""
    open_socket = writer.get_extra_info("socket")
    open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing until the client goes."""
    await reader.read()


def says(*pieces: bytes, then: Act | None = None) -> Act:
    """Write these, and then do something else or end the connection."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then is not None:
            await then(reader, writer)

    return act


def repeats(piece: bytes, *, pause: float = 0.0, most_bytes: float = float("inf")) -> Act:
    """Write the same again and again, until so many bytes are out or the client goes."""

    async def act(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = most_bytes
        while left > 0:
            writer.write(piece)
            await writer.drain()
            left -= len(piece)
            await asyncio.sleep(pause)

    return act


def drips(data: bytes) -> Act:
    """Write a byte a second."""

    async def act(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)

    return act


def answer(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> Act:
    """A whole answer; `length` is what it claims of its body."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return says("\r\n".join([*lines, "", ""]).encode() + body)


def streams(*pieces: bytes, then: Act | None = None, headers: str = "") -> Act:
    """An event stream that ends with its connection."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
    return says((head + headers + "\r\n").encode(), *pieces, then=then)


def event(**chunk: object) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def token(text: str = "word ") -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


LAST = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE = b"data: [DONE]\n\n"


def used(usage: str) -> bytes:
    return b'data: {"choices": [], "usage": %s}\n\n' % usage.encode()


def vllm_page(value: str, engines: int = 1) -> bytes:
    """A page whose every value is `value`."""
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
             "prefix_cache_queries_total", "prefix_cache_hits_total")  # fmt: skip
    lines = [
        f'vllm:{name}{{engine="{engine}",model_name="m"}} {value}\n'
        for engine in range(engines)
        for name in names
    ]
    return "".join(lines).encode()


def page(body: bytes, *headers: str, length: int | None = None) -> Act:
    return answer("200 OK", "Content-Type: text/plain", *headers, body=body, length=length)


def _sound(path: str, body: bytes) -> Act:
    """What a sound engine answers; the second turn of a session hits its cache."""
    if path == CHAT:
        cached = 32 if b'"assistant"' in body else 0
        details = f'{{"cached_tokens": {cached}}}'
        usage = (
            f'{{"prompt_tokens": 60, "completion_tokens": 2, "prompt_tokens_details": {details}}}'
        )
        return streams(token(), token(), LAST, used(usage), DONE)
    if path == METRICS:
        return page(vllm_page("0"))
    if path == "/v1/models":
        return answer("200 OK", body=b'{"data": [{"id": "m", "max_model_len": 8192}]}')
    return answer("200 OK" if path == "/health" else "404 Not Found")
