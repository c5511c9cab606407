"""The exact token ids of recorded requests, by the engine that would get them."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from exporter.analysis.requests.sharing import Tokenized
from exporter.engine.wire.additions import rendering_fields
from exporter.errors import EngineUnavailableError
from exporter.model.failure import FailureReason
from exporter.model.recorded import Api
from exporter.recording.as_chat import as_chat
from exporter.recording.traces import prompt_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.engine.client.engine_client import EngineClient
    from exporter.model.recorded import RecordedRequest

_SENT = (
    *("messages", "input", "instructions", "system", "tools", "documents", "reasoning_effort"),
    *("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
    *("add_special_tokens", "mm_processor_kwargs", "thinking", "output_config", "reasoning"),
)
"""Fields of a request that its prompt depends on. Records of proxies have others beside them."""
_NO_RENDER = {FailureReason.PROTOCOL, FailureReason.UNAUTHORIZED}
"""vLLM without --enable-scale-out answers 403, an older one 404."""
_TOKENIZED = ("model", "messages", "tools", "add_generation_prompt", "continue_final_message")
"""Fields that /tokenize has beside those that change how a prompt is rendered."""


class Renderer:
    """Asks one engine for the token ids of requests. `model` stands in for models it lacks."""

    def __init__(self, client: EngineClient, model: str) -> None:
        self._client = client
        self._model = model
        self._lacking: set[str] = set()
        self._without_render: set[Api] = set()

    def model_of(self, request: RecordedRequest) -> str:
        """The model to send a request to."""
        lacks = not request.model or request.model in self._lacking
        return self._model if lacks else request.model

    async def tokenized(self, request: RecordedRequest) -> Tokenized:
        """The tokens of a request and of its answer. Raises `EngineUnavailableError`."""
        if request.api is Api.COMPLETIONS:
            return traced(request)
        prompt = array("I", await self._ids(request, ()))
        if not request.raw_answer:
            return Tokenized(prompt, prompt)
        whole = array("I", await self._ids(request, request.raw_answer))
        return Tokenized(prompt, _computed(prompt, whole, request.usage.completion_tokens))

    async def _ids(self, request: RecordedRequest, answer: Sequence[Any]) -> tuple[int, ...]:
        try:
            return await self._rendered(request, answer)
        except EngineUnavailableError as error:
            known = request.model in {"", self._model} or request.model in self._lacking
            if error.reason != FailureReason.MODEL_NOT_FOUND or known:
                raise
        self._lacking.add(request.model)
        return await self._rendered(request, answer)

    async def _rendered(self, request: RecordedRequest, answer: Sequence[Any]) -> tuple[int, ...]:
        body = body_to_send(request, self.model_of(request), answer)
        if request.api not in self._without_render:
            try:
                return await self._client.render(request.api, body)
            except EngineUnavailableError as error:
                if error.reason not in _NO_RENDER:
                    raise
                self._without_render.add(request.api)
        return await self._client.token_ids(_for_tokenize(as_chat(body, request.api)))


def traced(request: RecordedRequest) -> Tokenized:
    """The tokens of a line of a trace, which are known without an engine."""
    prompt = prompt_of(request.body)
    return Tokenized(prompt, prompt)


def body_to_send(
    request: RecordedRequest, model: str, answer: Sequence[Any] = ()
) -> dict[str, Any]:
    """The body of a request without what does not change its prompt, and with an answer."""
    if request.api is Api.COMPLETIONS:
        return {"model": model, "prompt": list(prompt_of(request.body))}
    body = {key: request.body[key] for key in _SENT if key in request.body}
    key = "input" if request.api is Api.RESPONSES else "messages"
    given = body[key] if isinstance(body[key], list) else [{"role": "user", "content": body[key]}]
    limit = {"max_tokens": 1} if request.api is Api.MESSAGES else {}
    return {**body, **limit, "model": model, key: [*given, *answer] if answer else body[key]}


def _for_tokenize(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a /tokenize request that renders the same prompt."""
    return {key: body[key] for key in _TOKENIZED if key in body} | rendering_fields(body)


def _computed(prompt: array[int], whole: array[int], answer_tokens: int | None) -> array[int]:
    """The prompt with the tokens of its answer that the engine computed.

    That is all but the last one. What a template writes after an answer is not of the answer.
    Where the prompt with the answer does not begin with the prompt, the answer is unknown.
    """
    if whole[: len(prompt)] != prompt:
        return prompt
    most = len(whole) if answer_tokens is None else len(prompt) + answer_tokens - 1
    return whole[:most]
