"""The file of a recording: one line for each request, for its owner only, and bounded."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, Self

import structlog

from exporter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = structlog.stdlib.get_logger(__name__)

_WAITING_BYTES = 256 << 20
"""Lines that wait for the disk. Beyond it lines are dropped, and counted."""


class RecordingFile:
    """Writes lines in the background, so that a slow disk delays no stream.

    `written` counts the lines in the file, `dropped` those that did not fit into `most_bytes` or
    could not be written. `failure` is the error of the disk that ended the recording.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        """Create the file, readable by its owner only. Raises `ConfigError`."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
        except FileExistsError:
            raise ConfigError(f"--out: {path} exists; remove it or name another file") from None
        except OSError as error:
            raise ConfigError(f"--out: {path} cannot be written: {error.strerror}") from error
        self.path = path
        self.written = 0
        self.dropped = 0
        self.failure: str | None = None
        self._left = most_bytes
        self._waiting = 0
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write_all(), name="recording")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Write what waits, and close the file. A file without a line is removed."""
        self._lines.put_nowait(None)
        if self._task is not None:
            await self._task
        if not os.fstat(self._descriptor).st_size:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def add(self, body: bytes, facts: Mapping[str, Any]) -> None:
        """Record a request with its body, which is JSON, and what else is known of it."""
        head = json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()
        one_line = body.replace(b"\n", b" ").replace(b"\r", b" ")  # JSON texts have no line ends
        line = head[:-1] + b',"request":' + one_line + b"}\n"
        if len(line) > self._left or self._waiting + len(line) > _WAITING_BYTES:
            if not self.dropped and self.failure is None:
                log.warning("capture.file_full", path=str(self.path), written=self.written)
            self.dropped += 1
            return
        self._left -= len(line)
        self._waiting += len(line)
        self._lines.put_nowait(line)

    async def flushed(self) -> None:
        """Wait until all lines so far are in the file."""
        await self._lines.join()

    async def _write_all(self) -> None:
        while (line := await self._lines.get()) is not None:
            if self.failure is None and await asyncio.to_thread(self._written, line):
                self.written += 1
            else:
                self.dropped += 1
            self._waiting -= len(line)
            self._lines.task_done()

    def _written(self, line: bytes) -> bool:
        """Write a line, or nothing of it."""
        size = os.fstat(self._descriptor).st_size
        try:
            _write(self._descriptor, line)
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            self.failure = error.strerror or str(error)
            self._left = 0
            log.error("capture.write_failed", path=str(self.path), error=self.failure)  # noqa: TRY400 - the traceback says no more
            return False
        return True


def _write(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
