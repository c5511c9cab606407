"""Requests whose answers are small: everything but the streamed chats."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp
from yarl import URL

from exporter.engine.client.body import read_body, refused
from exporter.engine.client.translation import connection_failure, redirect_failure, redirect_of
from exporter.engine.wire.redaction import without_sent
from exporter.engine.wire.refusal import error_text
from exporter.errors import EngineUnavailableError
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from exporter.engine.wire.additions import Additions
    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.request import RequestContext

KEEPALIVE_SECONDS = 4.0  # below the 5 s of uvicorn, so a reused connection is still open
_JSON_BYTES = 8 << 20
"""The limit for an answer: the ids of a million tokens from /tokenize."""
_MOST_REDIRECTS = 3


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, and the most bytes and seconds of its answer. `added` are the user's headers."""

    method: str
    url: str
    body: Json | None
    added: Mapping[str, str]
    limit: int
    seconds: float | None


class Reader:
    """Reads pages and JSON from one engine at `url`.

    `key` and the values of the user's headers are taken out of error messages. The user's headers
    go to the scheme, host and port of `url` only.
    """

    def __init__(
        self,
        url: str,
        additions: Additions,
        *,
        key: str | None,
        headers: Mapping[str, str],
        ssl: SSLContext | bool,
        timeout_seconds: float,
    ) -> None:
        self._own = origin_of(url)
        self._additions = additions
        self._api_key = key
        self._headers = {**headers, "Accept-Encoding": "gzip, identity"}
        self._ssl = ssl
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if self._session is not None:
            await self._session.close()
        self._session = None

    async def json(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        context: RequestContext | None = None,
        *,
        seconds: float | None = None,
    ) -> Json:
        """The JSON object at `url`. Raises `EngineUnavailableError`."""
        page = await self.page(method, url, body, context=context, seconds=seconds)
        try:
            parsed = json.loads(page)
        except (ValueError, RecursionError) as error:
            raise EngineUnavailableError(
                FailureReason.PROTOCOL, f"{url} did not answer with JSON: {error_text(str(error))}"
            ) from error
        if not isinstance(parsed, dict):
            raise EngineUnavailableError(FailureReason.PROTOCOL, f"{url}: not a JSON object")
        return parsed

    async def page(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        *,
        limit: int = _JSON_BYTES,
        seconds: float | None = None,
        context: RequestContext | None = None,
    ) -> bytes:
        """The body, at most `limit` bytes, within `seconds`. Raises `EngineUnavailableError`."""
        added = self._additions.headers_of(context) if origin_of(url) == self._own else {}
        request = _Request(method, url, body, added, limit, seconds)
        try:
            return await self._ask(request)
        except EngineUnavailableError as error:
            failure = Failure(FailureReason(error.reason), error.detail)
            raise self._unavailable(request, failure) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise self._unavailable(request, connection_failure(error, sent=True)) from error

    def _unavailable(self, request: _Request, failure: Failure) -> EngineUnavailableError:
        detail = without_sent(failure.detail, self._api_key, request.body, request.added.values())
        return EngineUnavailableError(failure.reason, f"{request.url}: {detail}")

    async def _ask(self, request: _Request) -> bytes:
        """The body. A GET follows redirects, but only to the same scheme, host and port."""
        timeout, url = self._timeout, URL(request.url)
        if (seconds := request.seconds) is not None:
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=seconds / 2)
        for hop in range(_MOST_REDIRECTS + 1):
            sent = packed(request.body, request.added)
            async with self._connections().request(
                request.method, url, **sent, allow_redirects=False, timeout=timeout
            ) as response:
                onward = redirect_of(response)
                if onward is None and response.status == HTTPStatus.OK:
                    return await read_body(response, request.limit)
                if onward is None:
                    failure = (await refused(response, (timeout.total or 0.0) / 2)).failure
                    raise EngineUnavailableError(failure.reason, failure.detail)
                same = onward.absolute and onward.origin() == url.origin()
                if request.method != "GET" or not same or hop == _MOST_REDIRECTS:
                    failure = redirect_failure(response.status, onward)
                    raise EngineUnavailableError(failure.reason, failure.detail)
            url = onward
        raise AssertionError(url)  # not reached: the last hop returns or raises

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._ssl, keepalive_timeout=KEEPALIVE_SECONDS),
                headers=self._headers,
                timeout=self._timeout,
                auto_decompress=False,  # read_body does it, up to a limit
            )
        return self._session


def origin_of(url: str) -> URL | None:
    """Scheme, host and port; None of a URL that is unusable."""
    try:
        return URL(url).origin()
    except ValueError:
        return None


def packed(body: Json | None, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A JSON body and headers for aiohttp. It sends a file in parts: a long body blocks no loop."""
    if body is None:
        return {"headers": dict(headers or {})}
    data = io.BytesIO(json.dumps(body).encode())
    return {"data": data, "headers": {**(headers or {}), "Content-Type": "application/json"}}
