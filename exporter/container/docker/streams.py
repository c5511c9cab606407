"""Docker's endless answers, container logs and events, read line by line on a thread.

Not by docker-py: its streams end silently when they break, so that a dead daemon looks like a
finished container, and its log stream does not say which of the two outputs a piece is from.
"""

from __future__ import annotations

import json
import struct
from contextlib import closing
from typing import TYPE_CHECKING, Any

from exporter.container.decide.records import ContainerEvent, DockerError, DockerProblem, LogLine
from exporter.container.docker.records import event_from, log_line_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import requests

# Docker's header before each piece of the log of a container without a terminal: the output (1
# stdout, 2 stderr, 3 an error of the daemon), three zeros, the length.
_FRAME = struct.Struct(">BxxxL")
_DAEMON_ERROR = 3
_LONGEST_FRAME = 1 << 24
_LONGEST_LINE = 1 << 16  # bytes; a container may write without line ends


def events(response: requests.Response) -> Iterator[ContainerEvent]:
    """The container events in an answer of /events."""
    with closing(response):
        for line in _lines(response.iter_content(chunk_size=None)):
            event = event_from(json.loads(line))
            if event is not None:
                yield event


def log_lines(response: requests.Response, *, terminal: bool) -> Iterator[LogLine]:
    """The lines in an answer of /containers/…/logs with `timestamps`."""
    with closing(response):
        if terminal:
            for line in _lines(response.iter_content(chunk_size=None)):
                yield log_line_from(line)
        else:
            yield from _framed_lines(response)


def _framed_lines(response: requests.Response) -> Iterator[LogLine]:
    # A line longer than 16 KiB comes in several frames, each with its own time.
    unfinished: dict[int, tuple[float, str]] = {}
    for output, payload in _frames(response):
        piece = log_line_from(payload.removesuffix(b"\n"))
        time, text = unfinished.pop(output, (piece.time, ""))
        text += piece.text
        if payload.endswith(b"\n") or len(text) > _LONGEST_LINE:
            yield LogLine(time, text)
        else:
            unfinished[output] = (time, text)
    for time, text in unfinished.values():  # the container ended within a line
        yield LogLine(time, text)


def _frames(response: requests.Response) -> Iterator[tuple[int, bytes]]:
    while head := _read(response, _FRAME.size):
        if len(head) < _FRAME.size:
            raise ValueError("the log ends within a frame's header")
        output, length = _FRAME.unpack(head)
        if length > _LONGEST_FRAME:
            raise ValueError(f"a log frame of {length} bytes")
        payload = _read(response, length)
        if len(payload) < length:
            raise ValueError("the log ends within a frame")
        if output == _DAEMON_ERROR:
            words = payload.decode("utf-8", "replace").strip()
            raise DockerError(DockerProblem.API_ERROR, f"Docker aborted the log: {words}")
        yield output, payload


def _read(response: requests.Response, size: int) -> bytes:
    """`size` bytes, or fewer at the end."""
    got: bytes = response.raw.read(size)
    return got


def _lines(chunks: Iterable[Any]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line.strip())
        if len(rest) > _LONGEST_LINE:
            yield rest
            rest = b""
    if rest.strip():
        yield rest
