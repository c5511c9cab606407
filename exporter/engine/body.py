"""The whole body of an answer, within a bound: no engine may fill this program's memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from exporter.errors import EngineUnavailableError
from exporter.model import FailureReason

if TYPE_CHECKING:
    import aiohttp

_GZIP = 31  # zlib's window bits for a gzip header
_SHOWN = 40  # characters of a header that a message shows


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, unpacked where it is gzip; packed and unpacked it may have `limit` bytes.

    The session must not unpack by itself (`auto_decompress=False`). Raises `EngineUnavailableError`
    where the body is longer, or is packed in a way that was not offered.
    """
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            raise _too_long(limit)
    coding = content_coding(response)
    if coding == "identity":
        return bytes(body)
    if coding != "gzip":
        raise EngineUnavailableError(FailureReason.PROTOCOL, not_offered(coding))
    return _unpacked(bytes(body), limit)


def content_coding(response: aiohttp.ClientResponse) -> str:
    """How the body is packed, "identity" where it is not; cut to what a message can show."""
    return (response.headers.get("Content-Encoding") or "identity").strip().lower()[:_SHOWN]


def not_offered(coding: str) -> str:
    """The words for a body that is packed in a way that was not asked for."""
    return f"the answer is packed as {coding!r}, which was not offered"


def _unpacked(packed: bytes, limit: int) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    try:
        body = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise EngineUnavailableError(
            FailureReason.PROTOCOL, f"the answer is not the gzip that it says it is: {error}"
        ) from error
    if len(body) > limit:
        raise _too_long(limit)
    if not unpacker.eof:
        raise EngineUnavailableError(FailureReason.STREAM_CUT, "the gzip of the answer breaks off")
    return body


def _too_long(limit: int) -> EngineUnavailableError:
    return EngineUnavailableError(
        FailureReason.PROTOCOL, f"the answer goes beyond {limit >> 20} MiB, which no vLLM's does"
    )
