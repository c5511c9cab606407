"""A server of streamed answers that stamps what it does itself, in the clear or over TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from web_files import CERTIFICATES

from exporter.engine.client.stamps import now

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

AUTHORITY = str(CERTIFICATES / "ca.pem")
"""Whom a client has to trust to talk to a server with `server_tls`."""


def server_tls() -> ssl.SSLContext:
    """The context of a TLS server at localhost or 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "first.pem", CERTIFICATES / "first.key")
    return context


def text_chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return _event(json.dumps({"choices": [choice]}))


def end_of_stream(prompt_tokens: int = 9, cached_tokens: int = 0) -> bytes:
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
    return _event(json.dumps({"choices": [], "usage": usage})) + _event("[DONE]")


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


@dataclass
class Served:
    """One request: when its head came, when its last byte was there, when each piece was sent."""

    head_at: float
    read_at: float = 0.0
    sent_at: list[float] = field(default_factory=list)


@dataclass
class StampedServer:
    """`pieces` are written one by one; before each but the first, `go_on` is awaited."""

    url: str
    pieces: list[bytes]
    go_on: Callable[[], Awaitable[object]]
    served: list[Served] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                served = Served(now())
                await reader.readexactly(_length(head))
                served.read_at = now()
                self.served.append(served)
                await self._answer(writer, served)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter, served: Served) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for number, piece in enumerate(self.pieces, start=1):
            if number > 1:
                await self.go_on()
            served.sent_at.append(now())
            last = b"0\r\n\r\n" if number == len(self.pieces) else b""
            writer.write(head + b"%x\r\n%b\r\n" % (len(piece), piece) + last)
            head = b""
            await writer.drain()


def url_of(server: asyncio.Server, *, tls: bool = True) -> str:
    port = server.sockets[0].getsockname()[1]
    return f"http{'s' if tls else ''}://127.0.0.1:{port}"


def _length(head: bytes) -> int:
    (line,) = [each for each in head.lower().split(b"\r\n") if each.startswith(b"content-length:")]
    return int(line.partition(b":")[2])


@asynccontextmanager
async def stamped_server(
    pieces: list[bytes], go_on: Callable[[], Awaitable[object]], *, tls: bool
) -> AsyncIterator[StampedServer]:
    made = StampedServer("", pieces, go_on)
    server = await asyncio.start_server(
        made.serve, "127.0.0.1", 0, ssl=server_tls() if tls else None
    )
    made.url = url_of(server, tls=tls)
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()
