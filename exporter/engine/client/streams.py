"""Sends the requests whose answers are streamed, and reads the streams with their times."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from exporter.engine.client import stamps
from exporter.engine.client.body import not_a_stream, refused
from exporter.engine.client.reader import KEEPALIVE_SECONDS
from exporter.engine.client.translation import connection_failure, redirect_of
from exporter.engine.wire.sse import Decoder
from exporter.model.chat import out_of_order
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ssl import SSLContext

    from exporter.engine.client.deadline_timer import DeadlineTimer
    from exporter.engine.wire.answer import Answer
    from exporter.engine.wire.request import Deadlines
    from exporter.engine.wire.surfaces.surface import Surface

_STREAM_BYTES = 16 << 20
"""The limit for a streamed answer: the ids of a million tokens, and thousands of chunks."""
_MOST_TEXT_CHUNKS = 8192
"""Twice the largest max_tokens; an engine that sends more ignores max_tokens."""
_MOST_SKIPPED_LINES = 50_000  # comments that keep a connection alive come every few seconds


class Streams:
    """The connections for streamed answers of one engine. `url` is that of its `surface`."""

    def __init__(
        self, url: str, surface: Surface, headers: Mapping[str, str], ssl: SSLContext | bool
    ) -> None:
        self._url = url
        self._surface = surface
        self._headers = headers
        self._ssl = ssl
        self._keeps_alive = True
        self._session: aiohttp.ClientSession | None = None
        self._retired: list[aiohttp.ClientSession] = []

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        for session in (self._session, *self._retired):
            if session is not None:
                await session.close()
        self._session = None
        self._retired.clear()

    def keep_none(self) -> None:
        """From now on use a new connection for each request: the server closes kept ones."""
        self._keeps_alive = False
        if self._session is not None:
            self._retired.append(self._session)  # a request may still be running on it
            self._session = None

    async def read(
        self,
        sent: dict[str, Any],
        timer: DeadlineTimer,
        exchange: stamps.Exchange,
        answer: Answer,
        on_token: Callable[[int], None] | None,
    ) -> Failure | None:
        """Send a packed request and read its stream into `answer`; its failure, if any."""
        stamps.observe(exchange)
        try:
            async with timer.running():
                return await self._stream(sent, exchange, answer, timer, on_token)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if answer.done:  # the answer is complete; the end of the connection does not matter
                return answer.end()
            if isinstance(error, TimeoutError):
                return timer.failure(error)
            return connection_failure(error, sent=exchange.sent_at is not None)

    async def _stream(
        self,
        sent: dict[str, Any],
        exchange: stamps.Exchange,
        answer: Answer,
        timer: DeadlineTimer,
        on_token: Callable[[int], None] | None,
    ) -> Failure | None:
        session = self._opened(timer.deadlines)
        async with session.post(self._url, **sent, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK and redirect_of(response) is None:
                answer.refusal = await refused(response, timer.left() / 2)
                return self._surface.failure_of(answer.refusal)
            if (failure := not_a_stream(response)) is not None:
                return failure
            decoder, left = Decoder(), _STREAM_BYTES
            async for chunk in response.content.iter_any():
                left -= len(chunk)
                if left < 0 or decoder.skipped > _MOST_SKIPPED_LINES:
                    return Failure(FailureReason.PROTOCOL, "the answer does not end")
                if len(answer.token_times) > _MOST_TEXT_CHUNKS:
                    return Failure(
                        FailureReason.PROTOCOL, "the answer has more tokens than max_tokens"
                    )
                for event in decoder.feed(chunk):
                    if answer.add(event.data, exchange.arrival(event.end)):
                        timer.token()
                        if on_token is not None:
                            on_token(len(answer.token_times))
                if answer.failure is not None:
                    break
        return answer.end() or out_of_order(exchange.sent_at, exchange.first_byte_at)

    def _opened(self, deadlines: Deadlines) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=stamps.StampingConnector(
                    ssl=self._ssl,
                    limit=0,
                    keepalive_timeout=KEEPALIVE_SECONDS if self._keeps_alive else None,
                    force_close=not self._keeps_alive,
                ),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=deadlines.connect),
                auto_decompress=False,  # streams are requested without compression
            )
        return self._session


def closed_while_kept(failure: Failure | None, exchange: stamps.Exchange) -> bool:
    """Whether the server closed a kept connection, as it may, before it answered."""
    cut = failure is not None and failure.reason is FailureReason.STREAM_CUT
    return cut and exchange.reused and exchange.first_byte_at is None
