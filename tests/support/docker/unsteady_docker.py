"""A unix socket in front of Docker's, with faults on request."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Mood(Enum):
    STEADY = "passes everything on"
    HANGING = "accepts requests and never answers"
    TRICKLING = "answers one byte at a time"
    BROKEN = "answers with something other than HTTP"


class UnsteadyDocker:
    """`host` is what a client of Docker is given. The mood holds for what is sent from then on."""

    def __init__(self, socket: Path, upstream: str) -> None:
        self.socket = socket
        self.host = f"unix://{socket}"
        self.mood = Mood.STEADY
        self.requests = 0
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def stop(self) -> None:
        """Go away as a daemon that was stopped does: connections end, the socket is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
            await self.cut()
            self.socket.unlink(missing_ok=True)

    async def cut(self) -> None:
        """End all connections, also in the middle of an answer."""
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        back: asyncio.Task[None] | None = None
        up_writer: asyncio.StreamWriter | None = None
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
            back = asyncio.create_task(self._answers(up_reader, writer))
            while data := await reader.read(65536):
                self.requests += 1
                if self.mood is Mood.BROKEN:
                    writer.write(b"\x00\xff this is no HTTP\r\n\r\n")
                    break
                if self.mood is not Mood.HANGING:
                    up_writer.write(data)
                    await up_writer.drain()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (up_writer, writer):
                if each is not None:
                    each.transport.abort()
            if back is not None:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.mood is Mood.TRICKLING:
                    for byte in data:
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.05)
                else:
                    writer.write(data)
                    await writer.drain()
            writer.close()
