"""Passes requests on to one engine and their answers back, byte for byte, as they come.

A request of the three APIs is recorded when its answer has ended. Headers are never recorded: they
have keys and cookies.
"""

from __future__ import annotations

import io
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import structlog
from aiohttp import HttpVersion11, web
from multidict import CIMultiDict
from yarl import URL

from exporter.model.recorded import RECORDED_APIS, Api
from exporter.recording.answers import StreamedAnswer, whole_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from exporter.capture.recording_file import RecordingFile

log = structlog.stdlib.get_logger(__name__)

MOST_BODY_BYTES: Final = 256 << 20
_HOP_BY_HOP: Final = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
    *("transfer-encoding", "upgrade", "host", "content-length", "expect"),
}
"""Headers of one connection (RFC 9110, 7.6.1), and those that the client writes anew."""
MOST_HEADER_BYTES: Final = 64 << 10
"""Of a URL or of one header, as long as uvicorn takes. aiohttp's own limit is 8 KiB."""
_KEPT_ALIVE_SECONDS: Final = 3.0
"""For a free connection. uvicorn closes it after 5 s, and a request may come in that moment."""
_MOST_WHOLE_BYTES: Final = 64 << 20
_CONNECT_SECONDS: Final = 10.0
_WITHOUT_BODY: Final = {204, 304}
_OK: Final = range(200, 300)


@dataclass(slots=True)
class Counts:
    """Requests by how they ended. `refused` got an error of the engine, `unfinished` no whole
    answer, and `other` are those that are not recorded.
    """

    requests: int = 0
    refused: int = 0
    unfinished: int = 0
    other: int = 0


@dataclass(slots=True)
class _Exchange:
    """One request to be recorded, and its answer so far. Times are monotonic seconds."""

    api: Api
    body: bytes
    encoding: str
    began: float
    wall: float
    first_byte: float | None = None
    ended: bool = False
    streamed: StreamedAnswer | None = None
    whole: bytearray = field(default_factory=bytearray)

    def take(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if self.first_byte is None:
            self.first_byte = time.monotonic()
        if self.streamed is not None:
            self.streamed.feed(chunk)
        elif len(self.whole) <= _MOST_WHOLE_BYTES:
            self.whole += chunk

    def facts(self) -> dict[str, Any]:
        """What is recorded beside the request."""
        ended = time.monotonic()
        answer = (
            whole_answer(bytes(self.whole), self.api)
            if self.streamed is None
            else self.streamed.response()
        )
        first = None if self.first_byte is None else round(self.first_byte - self.began, 6)
        return {
            "time": round(self.wall, 6),
            "path": self.api,
            "first_byte_seconds": first,
            "duration_seconds": round(ended - self.began, 6),
            "response": answer,
        }


class Proxy:
    """The handler of every request. It opens its connections to the engine when it starts."""

    def __init__(self, url: str, file: RecordingFile) -> None:
        self._url = url.rstrip("/")
        self._file = file
        self._client: aiohttp.ClientSession | None = None
        self.counts = Counts()

    def app(self) -> web.Application:
        """The application to serve."""
        app = web.Application(client_max_size=MOST_BODY_BYTES)
        app.cleanup_ctx.append(self._connected)
        app.router.add_route("*", "/{path:.*}", self.handle)
        return app

    async def _connected(self, _app: web.Application) -> AsyncIterator[None]:
        # No limits on connections and time: the agents and the engine have their own. No cookies:
        # those of one agent are not for another.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE_SECONDS)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=MOST_HEADER_BYTES, max_field_size=MOST_HEADER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as self._client:  # fmt: skip
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Pass one request on."""
        exchange, body = await self._received(request)
        if exchange is None:
            self.counts.other += 1
        else:
            self.counts.requests += 1
        try:
            async with self._session().request(
                request.method,
                self._url_of(request),
                headers=_passed(request.headers, {"Accept-Encoding": "identity"}),
                data=body,
                allow_redirects=False,
            ) as answer:
                return await self._answered(request, answer, exchange)
        except aiohttp.ClientConnectionError as error:
            return self._unavailable("does not answer", str(error))
        except aiohttp.ClientError as error:  # its text may quote the answer
            return self._unavailable("does not answer with HTTP", type(error).__name__)
        finally:
            self.counts.unfinished += exchange is not None and not exchange.ended

    def _url_of(self, request: web.Request) -> URL:
        """Where a request goes, with its path and query as the client wrote them."""
        # A client that takes this for its HTTP proxy names a host before the path.
        raw = request.raw_path
        path = raw if raw.startswith("/") else request.rel_url.raw_path_qs
        return URL(f"{self._url}{path}", encoded=True)

    def _unavailable(self, what: str, why: str) -> web.Response:
        log.warning("capture.engine_unreachable", url=self._url, error=why)
        said = f"the engine at {self._url} {what}: {why}"
        return web.json_response({"error": {"message": said}}, status=502)

    def _session(self) -> aiohttp.ClientSession:
        assert self._client is not None, "the application has not started"  # noqa: S101 - a bug
        return self._client

    async def _received(self, request: web.Request) -> tuple[_Exchange | None, Any]:
        """What is to be recorded, if anything, and the body to send."""
        api = next((each for each in RECORDED_APIS if each == request.path), None)
        if request.method != "POST" or api is None:
            return None, request.content if request.body_exists else None
        began, wall = time.monotonic(), time.time()
        body = await request.read()
        encoding = request.headers.get("Content-Encoding", "identity")
        return _Exchange(api, body, encoding, began, wall), io.BytesIO(body)

    async def _answered(
        self, request: web.Request, answer: aiohttp.ClientResponse, exchange: _Exchange | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=answer.status, reason=answer.reason, headers=_passed(answer.headers)
        )
        if (length := answer.content_length) is not None:
            response.content_length = length
        elif answer.status not in _WITHOUT_BODY and request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        if exchange is not None and answer.content_type == "text/event-stream":
            exchange.streamed = StreamedAnswer(exchange.api)
        finished = False
        try:
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
                if exchange is not None:
                    exchange.take(chunk)
            await response.write_eof()
            finished = True
        except aiohttp.ClientError:
            # The engine went away in the middle: the agent must see that the answer was cut.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._record(exchange, answer.status, finished=finished)
        return response

    def _record(self, exchange: _Exchange | None, status: int, *, finished: bool) -> None:
        if exchange is None:
            return
        exchange.ended = True
        if status not in _OK:
            self.counts.refused += 1
            return
        self.counts.unfinished += not finished
        body = _decoded(exchange)
        if body is None:
            self.counts.other += 1
        else:
            facts = exchange.facts() | ({} if finished else {"cut": True})
            self._file.add(body, facts)


def _decoded(exchange: _Exchange) -> bytes | None:
    """The body of a request as JSON; None if it is compressed in a way that is not known."""
    if exchange.encoding == "identity":
        return exchange.body
    if exchange.encoding != "gzip":
        return None
    unpacked = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    body = unpacked.decompress(exchange.body, MOST_BODY_BYTES)
    return body if unpacked.eof else None


def _passed(
    headers: Mapping[str, str], changed: Mapping[str, str] | None = None
) -> CIMultiDict[str]:
    """The headers that are passed on. `changed` has others in place of those of its names."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    passed = CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP | named
    )
    passed.update(changed or {})
    return passed
