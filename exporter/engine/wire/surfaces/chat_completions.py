"""/v1/chat/completions, OpenAI's older API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.engine.wire.answer import (
    Answer,
    ImpossibleUsageError,
    checked_usage,
    details_of,
    token_count,
)
from exporter.engine.wire.surfaces.surface import Surface

if TYPE_CHECKING:
    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.request import ChatRequest
    from exporter.model.chat import Usage

_REASONING = ("reasoning", "reasoning_content")
_TOKEN_ID = "token_id:"  # noqa: S105 - vLLM's mark, not a secret


def body(request: ChatRequest) -> Json:
    """The JSON object to send."""
    made: Json = {
        "model": request.model,
        "messages": list(request.messages),
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    if request.cache_salt is not None:
        made["cache_salt"] = request.cache_salt
    if request.tools:
        made |= {"tools": list(request.tools), "tool_choice": "none"}
    if request.logprobs:
        made |= {"logprobs": True, "return_tokens_as_token_ids": True}
    return made


@dataclass(slots=True)
class ChatAnswer(Answer):
    """An answer in chunks; `[DONE]` ends it. Its message has no reasoning."""

    END = "[DONE]"

    def _take(self, chunk: Json) -> bool:
        if ids := chunk.get("prompt_token_ids"):
            self.prompt_token_ids = tuple(int(i) for i in ids)
        if chunk.get("usage") is not None:
            self._take_usage(chunk["usage"])
        choices = chunk.get("choices") or []
        texts = [self._take_choice(choice) for choice in choices]
        return any(texts)

    def _take_usage(self, usage: Any) -> None:
        if usage == {} and self.usage is not None:
            return  # nothing new
        try:
            self.usage, self.usage_fault = read_usage(usage), None
        except ImpossibleUsageError as error:
            self.usage, self.usage_fault = None, str(error)

    def _take_choice(self, choice: Json) -> bool:
        if (ids := choice.get("token_ids")) is not None:
            self.completion_token_ids = self.completion_token_ids or []
            self.completion_token_ids += [int(token) for token in ids]
        for entry in (choice.get("logprobs") or {}).get("content") or []:
            self._take_logprob(str(entry.get("token")))
        if choice.get("finish_reason") is not None:
            self.finish_reason = str(choice["finish_reason"])
        delta = choice.get("delta") or {}
        said = self._say(delta.get("content"))
        for call in delta.get("tool_calls") or []:
            self._take_tool_call(call)
        return said or bool(delta.get("tool_calls")) or any(map(delta.get, _REASONING))

    def _take_logprob(self, token: str) -> None:
        """A generated token as "token_id:123", which `return_tokens_as_token_ids` asks for."""
        number = token.removeprefix(_TOKEN_ID)
        if token.startswith(_TOKEN_ID) and number.isdecimal():
            self.logprob_token_ids = self.logprob_token_ids or []
            self.logprob_token_ids.append(int(number))

    def _take_tool_call(self, delta: Json) -> None:
        call, function = self._call(int(delta.get("index", 0))), delta.get("function") or {}
        call.id = delta.get("id") or call.id
        call.name = function.get("name") or call.name
        self._argue(call, function.get("arguments"))


def read_usage(usage: Any) -> Usage:
    """The usage object of a chat completion.

    A vLLM stream without --enable-prompt-tokens-details has no `prompt_tokens_details`, and a
    whole answer has null there: the cached tokens are unknown then, not 0. Even with the flag, vLLM
    before 0.24 leaves it out if 0 tokens were cached (analysis/hits/usage_details.py). Raises
    `ImpossibleUsageError` for impossible numbers: if one number is wrong, none can be trusted.
    """
    if not isinstance(usage, dict):
        raise ImpossibleUsageError("usage is not an object")
    cached = details_of(usage, "prompt_tokens_details").get("cached_tokens")
    return checked_usage(
        token_count("prompt_tokens", usage.get("prompt_tokens"), least=1),
        token_count("completion_tokens", usage.get("completion_tokens")),
        None if cached is None else token_count("cached_tokens", cached),
    )


SURFACE = Surface(
    "chat_completions", "/v1/chat/completions", body, ChatAnswer, has_logprobs=True, optional=False
)
