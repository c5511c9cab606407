"""Reads the body of an answer up to a limit, so that no engine can fill our memory."""

from __future__ import annotations

import asyncio
import zlib

import aiohttp

from exporter.engine.client.translation import redirect_failure, redirect_of
from exporter.engine.wire.refusal import Refusal, read_refusal
from exporter.errors import EngineUnavailableError
from exporter.model.failure import Failure, FailureReason

_REFUSAL_BYTES = 1 << 20
_REFUSAL_SECONDS = 5.0
"""The longest wait for the body of an error. The status alone says most."""
_GZIP = 31  # zlib's window bits for a gzip header
_SHOWN = 40  # characters of a header that a message shows


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, unpacked if it is gzip. Packed and unpacked it may have `limit` bytes.

    The session must not unpack it (`auto_decompress=False`). Raises `EngineUnavailableError` if the
    body is longer, or packed in a way that was not offered.
    """
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise _too_long(limit)
    coding = _coding(response)
    if coding == "identity":
        return bytes(body)
    if coding != "gzip":
        raise EngineUnavailableError(FailureReason.PROTOCOL, _not_offered(coding))
    return _unpacked(bytes(body), limit)


async def refused(response: aiohttp.ClientResponse, seconds: float) -> Refusal:
    """The refusal in an answer with an error status.

    If the body does not end within `seconds` or within its limit, the part that came is used: the
    status alone says more than a timeout.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(min(_REFUSAL_SECONDS, seconds)):
            async for piece in response.content.iter_any():
                body += piece
                if len(body) >= _REFUSAL_BYTES:
                    break
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass
    return read_refusal(response.status, _readable(response, bytes(body)))


def _readable(response: aiohttp.ClientResponse, body: bytes) -> bytes:
    """The body, unpacked if it is gzip; empty if it cannot be read."""
    coding = _coding(response)
    if coding == "identity":
        return body
    try:
        return _unpacked(body, _REFUSAL_BYTES) if coding == "gzip" else b""
    except EngineUnavailableError:
        return b""


def not_a_stream(response: aiohttp.ClientResponse) -> Failure | None:
    """Why a successful answer is not a stream of events, by its head; None if it is one."""
    if (onward := redirect_of(response)) is not None:
        return redirect_failure(response.status, onward)
    if response.content_type != "text/event-stream":
        return Failure(
            FailureReason.PROTOCOL, f"the answer is {response.content_type:.100}, not a stream"
        )
    if (coding := _coding(response)) != "identity":
        return Failure(FailureReason.PROTOCOL, _not_offered(coding))
    return None


def _coding(response: aiohttp.ClientResponse) -> str:
    """How the body is packed, "identity" if it is not; cut to fit a message."""
    return (response.headers.get("Content-Encoding") or "identity").strip().lower()[:_SHOWN]


def _not_offered(coding: str) -> str:
    """The message for a body that is packed in a way that was not offered."""
    return f"the answer is packed as {coding!r}, which was not offered"


def _unpacked(packed: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    try:
        body = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise EngineUnavailableError(
            FailureReason.PROTOCOL, f"the answer is not gzip, although its header says so: {error}"
        ) from error
    if len(body) > limit:
        raise _too_long(limit)
    if not unpacker.eof:
        raise EngineUnavailableError(FailureReason.STREAM_CUT, "the gzip of the answer breaks off")
    return body


def _too_long(limit: int) -> EngineUnavailableError:
    return EngineUnavailableError(
        FailureReason.PROTOCOL, f"the answer is larger than {limit >> 20} MiB"
    )
