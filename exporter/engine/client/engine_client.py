"""The door to an engine: the only user of aiohttp's client. What goes wrong outside becomes ours.

`EngineClient.chat` measures, so it never raises for what a server or a network does: a failed
request is a `Chat` with a failure. The readings beside it raise `EngineUnavailableError`.
"""

from __future__ import annotations

import io
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from yarl import URL

from exporter import __version__
from exporter.engine.client import stamps, tls
from exporter.engine.client.body import no_stream, read_body, refused
from exporter.engine.client.deadline_timer import DeadlineTimer
from exporter.engine.client.translation import connection_failure, redirected, sent_on
from exporter.engine.wire.answer import Answer, Json
from exporter.engine.wire.capabilities import Capabilities, context_of
from exporter.engine.wire.redaction import page_without, without_sent
from exporter.engine.wire.refusal import error_text
from exporter.engine.wire.sse import Decoder
from exporter.errors import EngineUnavailableError
from exporter.model.chat import Chat, out_of_order
from exporter.model.engine import EngineInfo
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.engine.wire.request import ChatRequest, Deadlines, Objects

_USER_AGENT = f"vllm-cache-exporter/{__version__}"
_KEEPALIVE_SECONDS = 4.0  # below uvicorn's 5, so that a reused connection is still there
_PAGE_BYTES = 8 << 20
"""The most that /metrics may have: eight ranks write 0.3 MiB."""
_JSON_BYTES = 8 << 20
"""The most that any other answer may have: the ids of a million tokens from /tokenize."""
_STREAM_BYTES = 16 << 20
"""The most that a streamed answer may have: those ids, and thousands of chunks of text."""
_MOST_TEXT_CHUNKS = 8192
"""Twice the tokens that one can ask for; an engine that sends more does not keep to max_tokens."""
_MOST_SKIPPED_LINES = 50_000  # comments that keep a connection alive come every few seconds
_MOST_REDIRECTS = 3
_LONGEST_NAME = 500  # characters; it is kept with every session


class EngineClient:
    """One engine at one base URL, for example `http://127.0.0.1:8000`. Use as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        metrics_url: str | None = None,
        verify_tls: bool = True,
        ca_file: str | None = None,
        timeout_seconds: float = 3.0,
    ) -> None:
        self.url = url.rstrip("/")
        self._wanted_model = model
        self._metrics_url = metrics_url or f"{self.url}/metrics"
        self._api_key = api_key
        self._headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        secure = "https" in {URL(each).scheme for each in (self.url, self._metrics_url)}
        self._ssl = tls.trust(verify=verify_tls, ca_file=ca_file, secure=secure)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._measuring: aiohttp.ClientSession | None = None
        self._version: str | None = None
        self._process: object = None
        self._keeps = True
        self.capabilities = Capabilities()
        self._retired: list[aiohttp.ClientSession] = []
        self._plain: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the client can still be used and opens new ones."""
        for session in (self._measuring, self._plain, *self._retired):
            if session is not None:
                await session.close()
        self._measuring = self._plain = None
        self._retired.clear()

    def answered_by(self, process: object) -> None:
        """Note which process answers now, None where that is not known.

        What was learned of another one does not hold for it.
        """
        if process is not None and self._process not in (None, process):
            self.capabilities = Capabilities()
        self._process = process or self._process

    # Readings

    async def metrics(self) -> bytes:
        """The page of vLLM's own /metrics."""
        page = await self._read("GET", self._metrics_url, limit=_PAGE_BYTES)
        return page_without(page, self._api_key)

    async def healthy(self, seconds: float | None = None) -> bool:
        """True when /health answers 200. Raises `EngineUnavailableError` when it does not.

        It may take `seconds` in place of the client's own timeout, half of them to connect.
        """
        await self._read("GET", f"{self.url}/health", seconds=seconds)
        return True

    async def loaded_model(self) -> str | None:
        """What it loaded, as vLLM says it in `root` of /v1/models; None where that is not said."""
        try:
            cards = _items(await self._read_json("GET", f"{self.url}/v1/models"))
        except EngineUnavailableError:
            return None
        roots = [card.get("root") for card in cards if card.get("parent") is None]
        return roots[0] if roots and isinstance(roots[0], str) else None

    async def rests(self) -> bool:
        """Whether it says that it sleeps or is paused; False where it does not say.

        vLLM serves these paths with VLLM_SERVER_DEV_MODE=1, which /sleep and /pause need, too.
        """
        for state in ("is_sleeping", "is_paused"):
            try:
                if (await self._read_json("GET", f"{self.url}/{state}")).get(state) is True:
                    return True
            except EngineUnavailableError:
                continue
        return False

    async def info(self) -> EngineInfo:
        """What the engine is: the wanted model or the first of /v1/models, and its version."""
        cards = _items(await self._read_json("GET", f"{self.url}/v1/models"))
        model = self._choose(cards)
        version: Mapping[str, Any]
        try:
            version = await self._read_json("GET", f"{self.url}/version")
        except EngineUnavailableError:
            version = {}  # other OpenAI servers and some proxies have no /version
        named = str(version["version"])[:_LONGEST_NAME] if version.get("version") else None
        if named is not None and self._version not in (None, named):
            self.capabilities = Capabilities()
        self._version = named or self._version
        if len(model) > _LONGEST_NAME:
            raise EngineUnavailableError(
                FailureReason.PROTOCOL,
                f"the engine's model has a name beyond {_LONGEST_NAME} characters",
            )
        return EngineInfo(
            model=model,
            max_model_len=context_of(model, cards) or self.capabilities.contexts.get(model),
            version=named,
            simulated=version.get("simulated") is True,
        )

    async def count_tokens(self, model: str, messages: Objects, tools: Objects) -> int | None:
        """How many tokens this prompt has by vLLM's /tokenize; None where that is not served.

        Without the tools where the chat was seen to leave them out.
        """
        counted = tools if self.capabilities.counts_tools else ()
        count = (await self._tokenized(model, messages, counted)).get("count")
        return count if isinstance(count, int) else None

    async def tokenize(
        self, model: str, messages: Objects, tools: Objects
    ) -> tuple[int, ...] | None:
        """The ids of this prompt by vLLM's /tokenize; None where that is not served."""
        ids = (await self._tokenized(model, messages, tools)).get("tokens")
        whole = isinstance(ids, list) and all(isinstance(one, int) for one in ids)
        return tuple(ids) if whole and ids else None

    async def _tokenized(self, model: str, messages: Objects, tools: Objects) -> Json:
        body: Json = {"model": model, "messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
        try:
            return await self._read_json("POST", f"{self.url}/tokenize", body)
        except EngineUnavailableError:
            return {}

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str | None:
        """The text of token ids by vLLM's /detokenize; None where that is not served."""
        body: Json = {"model": model, "tokens": list(tokens)}
        try:
            text = (await self._read_json("POST", f"{self.url}/detokenize", body)).get("prompt")
        except EngineUnavailableError:
            return None
        return text if isinstance(text, str) else None

    def _choose(self, cards: Sequence[Mapping[str, Any]]) -> str:
        names = [str(card.get("id")) for card in cards]
        if not names:
            raise EngineUnavailableError(FailureReason.NO_MODEL, "/v1/models lists no model")
        wanted = self._wanted_model if self._wanted_model is not None else names[0]
        if wanted not in names:
            served = without_sent(error_text(", ".join(names)), self._api_key)
            raise EngineUnavailableError(
                FailureReason.MODEL_NOT_FOUND,
                f"the engine does not serve {wanted!r}, it serves {served}",
            )
        return wanted

    async def _read_json(self, method: str, url: str, body: Json | None = None) -> Json:
        page = await self._read(method, url, body)
        try:
            parsed = json.loads(page)
        except (ValueError, RecursionError) as error:
            raise EngineUnavailableError(
                FailureReason.PROTOCOL, f"{url} did not answer with JSON: {error_text(str(error))}"
            ) from error
        if not isinstance(parsed, dict):
            raise EngineUnavailableError(FailureReason.PROTOCOL, f"{url}: not a JSON object")
        return parsed

    async def _read(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        limit: int = _JSON_BYTES,
        seconds: float | None = None,
    ) -> bytes:
        try:
            return await self._ask(method, URL(url), body, limit, seconds)
        except EngineUnavailableError as error:
            raise self._unavailable(
                url, Failure(FailureReason(error.reason), error.detail), body
            ) from error
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise self._unavailable(url, connection_failure(error, sent=True), body) from error

    def _unavailable(self, url: str, failure: Failure, body: Json | None) -> EngineUnavailableError:
        detail = without_sent(failure.detail, self._api_key, body)
        return EngineUnavailableError(failure.reason, f"{url}: {detail}")

    async def _ask(
        self, method: str, url: URL, body: Json | None, limit: int, seconds: float | None
    ) -> bytes:
        """The body. A GET may be sent on, but only within the same scheme, host and port."""
        timeout = self._timeout
        if seconds is not None:
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=seconds / 2)
        for hop in range(_MOST_REDIRECTS + 1):
            async with self._plain_session().request(
                method, url, **_packed(body), allow_redirects=False, timeout=timeout
            ) as response:
                onward = sent_on(response)
                if onward is None and response.status == HTTPStatus.OK:
                    return await read_body(response, limit)
                if onward is None:
                    failure = (await refused(response, (timeout.total or 0.0) / 2)).failure
                    raise EngineUnavailableError(failure.reason, failure.detail)
                same = onward.absolute and onward.origin() == url.origin()
                if method != "GET" or not same or hop == _MOST_REDIRECTS:
                    failure = redirected(response.status, onward)
                    raise EngineUnavailableError(failure.reason, failure.detail)
            url = onward
        raise AssertionError(url)  # cannot be: the last hop returns or raises

    def _plain_session(self) -> aiohttp.ClientSession:
        if self._plain is None:
            self._plain = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._ssl, keepalive_timeout=_KEEPALIVE_SECONDS),
                headers=self._headers | {"Accept-Encoding": "gzip, identity"},
                timeout=self._timeout,
                auto_decompress=False,  # read_body does it, within a bound
            )
        return self._plain

    # Measuring

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """Send one request and read its stream; `on_token` gets the count of text chunks so far."""
        watch, sent_twice = DeadlineTimer(deadlines), False
        while True:  # each time with one field less, or once more on a connection of its own
            exchange, answer = stamps.Exchange(), Answer()
            failure = await self._attempt(request, watch, exchange, answer, on_token)
            if _closed_while_kept(failure, exchange) and watch.elapsed() < deadlines.connect:
                sent_twice = exchange.sent_at is not None
                self._keep_none()
            elif answer.refusal is None or not self.capabilities.take(answer.refusal, request):
                break
        if failure is not None:
            told = (request.messages, request.tools, request.cache_salt, answer.message())
            failure = Failure(failure.reason, without_sent(failure.detail, self._api_key, told))
        ids = answer.completion_token_ids or answer.logprob_token_ids
        return Chat(
            sent_at=exchange.sent_at,
            token_times=tuple(answer.token_times),
            finished_at=exchange.last_arrival() or stamps.now(),
            usage=answer.usage,
            finish_reason=answer.finish_reason,
            prompt_token_ids=answer.prompt_token_ids,
            completion_token_ids=None if ids is None else tuple(ids),
            message=answer.message(),
            failure=failure,
            sent_twice=sent_twice,
            usage_fault=answer.usage_fault,
        )

    async def _attempt(
        self,
        request: ChatRequest,
        watch: DeadlineTimer,
        exchange: stamps.Exchange,
        answer: Answer,
        on_token: Callable[[int], None] | None,
    ) -> Failure | None:
        stamps.observe(exchange)
        try:
            async with watch.timer():
                return await self._stream(request, exchange, answer, watch, on_token)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            if answer.done:  # all was said; how the connection ended afterwards says nothing
                return answer.end()
            if isinstance(error, TimeoutError):
                return watch.failure(error)
            return connection_failure(error, sent=exchange.sent_at is not None)

    async def _stream(
        self,
        request: ChatRequest,
        exchange: stamps.Exchange,
        answer: Answer,
        watch: DeadlineTimer,
        on_token: Callable[[int], None] | None,
    ) -> Failure | None:
        session = self._measuring_session(watch.deadlines)
        url = f"{self.url}/v1/chat/completions"
        sent = _packed(self.capabilities.body(request))
        async with session.post(url, **sent, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK and sent_on(response) is None:
                answer.refusal = await refused(response, watch.left() / 2)
                return answer.refusal.failure
            if (failure := no_stream(response)) is not None:
                return failure
            decoder, left = Decoder(), _STREAM_BYTES
            async for chunk in response.content.iter_any():
                left -= len(chunk)
                if left < 0 or decoder.skipped > _MOST_SKIPPED_LINES:
                    return Failure(FailureReason.PROTOCOL, "the answer does not end")
                if len(answer.token_times) > _MOST_TEXT_CHUNKS:
                    return Failure(FailureReason.PROTOCOL, "the answer has more tokens than asked")
                for event in decoder.feed(chunk):
                    if answer.take(event.data, exchange.arrival(event.end)):
                        watch.token()
                        if on_token is not None:
                            on_token(len(answer.token_times))
                if answer.failure is not None:
                    break
        return answer.end() or out_of_order(exchange.sent_at, exchange.first_byte_at)

    def _keep_none(self) -> None:
        """From now on use a new connection for each request, as the server closes those kept."""
        self._keeps = False
        if self._measuring is not None:
            self._retired.append(self._measuring)  # something may still be measured on it
            self._measuring = None

    def _measuring_session(self, deadlines: Deadlines) -> aiohttp.ClientSession:
        if self._measuring is None:
            self._measuring = aiohttp.ClientSession(
                connector=stamps.StampingConnector(
                    ssl=self._ssl,
                    limit=0,
                    keepalive_timeout=_KEEPALIVE_SECONDS if self._keeps else None,
                    force_close=not self._keeps,
                ),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=deadlines.connect),
                auto_decompress=False,  # a stream is asked for as it is
            )
        return self._measuring


def _closed_while_kept(failure: Failure | None, exchange: stamps.Exchange) -> bool:
    """Whether the server closed a kept-alive connection, as it may, before it answered on it."""
    cut = failure is not None and failure.reason is FailureReason.STREAM_CUT
    return cut and exchange.reused and exchange.first_byte_at is None


def _packed(body: Json | None) -> dict[str, Any]:
    """JSON as aiohttp is to send it: a file goes out in parts, so a long one blocks nothing."""
    if body is None:
        return {}
    data = io.BytesIO(json.dumps(body).encode())
    return {"data": data, "headers": {"Content-Type": "application/json"}}


def _items(models: Json) -> list[Mapping[str, Any]]:
    data = models.get("data")
    return [card for card in data if isinstance(card, dict)] if isinstance(data, list) else []
