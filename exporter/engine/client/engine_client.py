"""The HTTP client of an engine. Errors of aiohttp become failures and errors of ours.

`EngineClient.chat` measures, so it never raises because of a server or a network: a failed request
is a `Chat` with a failure. The other methods raise `EngineUnavailableError`.
"""

from __future__ import annotations

import secrets
from ssl import create_default_context
from typing import TYPE_CHECKING, Any, Self

from exporter import __version__
from exporter.engine.client import stamps
from exporter.engine.client.deadline_timer import DeadlineTimer
from exporter.engine.client.reader import Reader, packed
from exporter.engine.client.streams import Streams, closed_while_kept
from exporter.engine.wire.additions import Additions
from exporter.engine.wire.capabilities import Capabilities
from exporter.engine.wire.model_cards import (
    context_length,
    loaded_model,
    model_cards,
    with_adapters,
)
from exporter.engine.wire.redaction import page_without, without_sent
from exporter.engine.wire.refusal import error_text
from exporter.engine.wire.surfaces import chat_completions
from exporter.errors import EngineUnavailableError
from exporter.model.chat import Chat
from exporter.model.engine import EngineInfo
from exporter.model.failure import RESTS, Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.request import ChatRequest, Deadlines, Objects, RequestContext
    from exporter.engine.wire.surfaces.surface import Surface
    from exporter.model.engine import Adapters

_USER_AGENT = f"vllm-cache-exporter/{__version__}"
_PAGE_BYTES = 8 << 20
"""The limit for /metrics: eight ranks write 0.3 MiB."""
_REQUEST_ID = "X-Request-Id"
"""vLLM makes its own id of a chat from it, `chatcmpl-…`, and logs that. (`_base_request_id` of its
chat server, read in 0.10.2 to 0.32.0; seen on 0.32.0.)"""
_RESTS_TOLD = {"is_paused": FailureReason.PAUSED, "is_sleeping": FailureReason.ASLEEP}
"""Paths, which are also the fields of their answers."""
_LONGEST_NAME = 500  # characters of a model name, which every session keeps


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
        additions: Additions | None = None,
        surface: Surface = chat_completions.SURFACE,
    ) -> None:
        """`additions` are the user's headers and fields of chat requests; `surface` is the API that
        they use.
        """
        self.url = url.rstrip("/")
        self.surface = surface
        self._wanted_model = model
        self._metrics_url = metrics_url or f"{self.url}/metrics"
        self._api_key = api_key
        self._headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        # What aiohttp takes as `ssl`: True trusts the authorities of the system.
        self._ssl = create_default_context(cafile=ca_file) if verify_tls and ca_file else verify_tls
        self._additions = additions or Additions()
        self._reader = Reader(
            self.url,
            self._additions,
            key=api_key,
            headers=self._headers,
            ssl=self._ssl,
            timeout_seconds=timeout_seconds,
        )
        self._streams = Streams(self.url + surface.path, surface, self._headers, self._ssl)
        self._version: str | None = None
        self._process: object = None
        self.capabilities = Capabilities()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; the client can still be used and opens new ones."""
        await self._streams.close()
        await self._reader.close()

    def note_process(self, process: object) -> None:
        """Note which process answers now, None if that is unknown.

        A new process may have other capabilities.
        """
        if process is not None and self._process not in (None, process):
            self.capabilities = Capabilities()
        self._process = process or self._process

    # Readings

    async def metrics(self, url: str | None = None) -> bytes:
        """The page of vLLM's own /metrics. Raises `EngineUnavailableError`.

        `url` is the page of one replica behind this URL.
        """
        page = await self._reader.page("GET", url or self._metrics_url, limit=_PAGE_BYTES)
        return page_without(page, self._api_key, self._additions.headers_of(None).values())

    async def healthy(self, seconds: float | None = None) -> bool:
        """True if /health answers 200. Raises `EngineUnavailableError` if it does not.

        `seconds` replaces the client's own timeout; half of it is for the connection.
        """
        await self._reader.page("GET", f"{self.url}/health", seconds=seconds)
        return True

    async def loaded_model(self) -> str | None:
        """The loaded model, by `root` in vLLM's /v1/models; None if unknown."""
        try:
            page = await self._reader.json("GET", f"{self.url}/v1/models")
        except EngineUnavailableError:
            return None
        return loaded_model(model_cards(page))

    async def rest(self) -> FailureReason | None:
        """ASLEEP, PAUSED or SCALING if the engine says so; None if it says nothing.

        vLLM serves these paths only with VLLM_SERVER_DEV_MODE=1, and so it does /sleep and /pause.
        Of vLLM 0.32.0 both are true while it is paused and while it sleeps, so /metrics, which
        shows sleep alone, comes before this. While ranks are being added or removed it refuses
        every path.
        """
        for state, reason in _RESTS_TOLD.items():
            try:
                if (await self._reader.json("GET", f"{self.url}/{state}")).get(state) is True:
                    return reason
            except EngineUnavailableError as error:
                if error.reason in RESTS:
                    return FailureReason(error.reason)
        return None

    async def info(self, adapters: Adapters = (), turn: int = 0) -> EngineInfo:
        """The wanted model, or the first of /v1/models, and the version. Raises as above.

        With `adapters` it is the next of the model and these for each `turn` (0…). Each round
        begins with another one, so that each meets every rank.
        """
        cards = model_cards(await self._reader.json("GET", f"{self.url}/v1/models"))
        model = self._choose(cards, adapters, turn)
        version: Mapping[str, Any]
        try:
            version = await self._reader.json("GET", f"{self.url}/version")
        except EngineUnavailableError:
            version = {}  # other OpenAI servers and some proxies do not have /version
        named = str(version["version"])[:_LONGEST_NAME] if version.get("version") else None
        if named is not None and self._version not in (None, named):
            self.capabilities = Capabilities()
        self._version = named or self._version
        if len(model) > _LONGEST_NAME:
            raise EngineUnavailableError(
                FailureReason.PROTOCOL,
                f"the name of the engine's model is longer than {_LONGEST_NAME} characters",
            )
        return EngineInfo(
            model=model,
            max_model_len=context_length(model, cards) or self.capabilities.contexts.get(model),
            version=named,
            simulated=version.get("simulated") is True,
        )

    async def count_tokens(
        self,
        model: str,
        messages: Objects,
        tools: Objects,
        context: RequestContext | None = None,
    ) -> int | None:
        """The number of tokens of this prompt by vLLM's /tokenize; None if it is not served.

        The tools are left out if chats of this engine were seen to leave them out.
        """
        counted = tools if self.capabilities.counts_tools else ()
        count = (await self._tokenized(model, messages, counted, context)).get("count")
        return count if isinstance(count, int) else None

    async def tokenize(
        self,
        model: str,
        messages: Objects,
        tools: Objects,
        context: RequestContext | None = None,
    ) -> tuple[int, ...] | None:
        """The token ids of this prompt by vLLM's /tokenize; None if it is not served."""
        return _ids(await self._tokenized(model, messages, tools, context))

    async def tokenize_answer(
        self, request: ChatRequest, tools: Objects, message: Mapping[str, Any]
    ) -> tuple[tuple[int, ...], tuple[str, ...]] | None:
        """The ids of a request's prompt with `message` as its answer, and the text of each id in
        the tokenizer's own writing, by /tokenize; None if it is not served.
        """
        found = await self._tokenized(
            request.model,
            [*request.messages, message],
            tools,
            request.context,
            add_generation_prompt=False,
            return_token_strs=True,
        )
        ids, texts = _ids(found), found.get("token_strs")
        if ids is None or not isinstance(texts, list) or len(texts) != len(ids):
            return None
        return ids, tuple(map(str, texts))

    async def _tokenized(
        self,
        model: str,
        messages: Objects,
        tools: Objects,
        context: RequestContext | None,
        **more: bool,
    ) -> Json:
        body: Json = self._additions.rendering_of(context)
        body |= {"model": model, "messages": list(self.surface.rendered(messages)), **more}
        if tools:
            body["tools"] = list(tools)
        try:
            return await self._reader.json("POST", f"{self.url}/tokenize", body, context)
        except EngineUnavailableError:
            return {}

    async def render(self, path: str, body: Json) -> tuple[int, ...]:
        """The token ids of the prompt of any request by vLLM's /render below its path.

        Raises `EngineUnavailableError`, also where an older vLLM has no /render.
        """
        return await self._token_ids(f"{path}/render", body, "token_ids")

    async def token_ids(self, body: Json) -> tuple[int, ...]:
        """The token ids of the body of a /tokenize request. Raises `EngineUnavailableError`."""
        return await self._token_ids("/tokenize", body, "tokens")

    async def _token_ids(self, path: str, body: Json, key: str) -> tuple[int, ...]:
        ids = (await self._reader.json("POST", f"{self.url}{path}", body)).get(key)
        if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
            raise EngineUnavailableError(
                FailureReason.PROTOCOL, f"{self.url}{path} did not answer with token ids"
            )
        return tuple(ids)

    async def send(self, path: str, body: Json, seconds: float) -> Json:
        """Send a request of any API that is not streamed. Raises `EngineUnavailableError`."""
        return await self._reader.json("POST", f"{self.url}{path}", body, seconds=seconds)

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str | None:
        """The text of token ids by vLLM's /detokenize; None if it is not served."""
        body: Json = {"model": model, "tokens": list(tokens)}
        try:
            text = (await self._reader.json("POST", f"{self.url}/detokenize", body)).get("prompt")
        except EngineUnavailableError:
            return None
        return text if isinstance(text, str) else None

    def _choose(self, cards: Sequence[Mapping[str, Any]], adapters: Adapters, turn: int) -> str:
        names = [str(card.get("id")) for card in cards]
        if not names:
            raise EngineUnavailableError(FailureReason.NO_MODEL, "/v1/models lists no model")
        model = self._wanted_model if self._wanted_model is not None else names[0]
        models = with_adapters(model, adapters, cards)
        wanted = models[(turn + turn // len(models)) % len(models)]
        if wanted not in names:
            added = self._additions.headers_of(None).values()
            served = without_sent(error_text(", ".join(names)), self._api_key, None, added)
            raise EngineUnavailableError(
                FailureReason.MODEL_NOT_FOUND,
                f"the engine does not serve {wanted!r}, it serves {served}",
            )
        return wanted

    # Measuring

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """Send one request and read its stream; `on_token` gets the number of text chunks so far.

        It is sent again without a field that the engine refuses, and over a new connection if the
        server closed a kept one.
        """
        timer, sent_twice = DeadlineTimer(deadlines), False
        while True:  # each time with one field less, or once more over a new connection
            exchange, answer = stamps.Exchange(), self.surface.answer()
            body, request_id = self.surface.body(request), self._new_request_id()
            sent = self._packed(request, body, request_id)
            failure = await self._streams.read(sent, timer, exchange, answer, on_token)
            if closed_while_kept(failure, exchange) and timer.elapsed() < deadlines.connect:
                sent_twice = exchange.sent_at is not None
                self._streams.keep_none()
            elif answer.refusal is None or not self.capabilities.learn(answer.refusal, body):
                break
        if failure is not None:
            said = (request.messages, request.tools, request.cache_salt, answer.message())
            added = self._additions.headers_of(request.context).values()
            detail = without_sent(failure.detail, self._api_key, said, added)
            failure = Failure(failure.reason, detail)
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
            text_pieces=(answer.pieces() or ()) if self.surface.by_text else None,
            failure=failure,
            sent_twice=sent_twice,
            usage_fault=answer.usage_fault,
            request_id=request_id,
        )

    def _new_request_id(self) -> str | None:
        """A new id; None if the user's headers have one, which is a secret."""
        return None if self._additions.has_header(_REQUEST_ID) else secrets.token_hex(16)

    def _packed(self, request: ChatRequest, body: Json, request_id: str | None) -> dict[str, Any]:
        """The body and the headers of a chat request, for aiohttp."""
        context = request.context
        body = self.capabilities.accepted(body) | self._additions.body_of(context)
        headers = self._additions.headers_of(context) | request.headers()
        if request_id is not None:
            headers[_REQUEST_ID] = request_id
        return packed(body, headers)


def _ids(tokenized: Json) -> tuple[int, ...] | None:
    """The ids in an answer of /tokenize; None if it has none."""
    ids = tokenized.get("tokens")
    whole = isinstance(ids, list) and all(isinstance(one, int) for one in ids)
    return tuple(ids) if whole and ids else None
