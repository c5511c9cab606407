"""Puts a streamed chat completion together, chunk by chunk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporter.engine.wire.refusal import error_in, error_text, rest_in
from exporter.errors import ExporterError
from exporter.model.chat import Usage
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from exporter.engine.wire.refusal import Refusal

Json = dict[str, Any]
DONE = b"[DONE]"
_TEXT_FIELDS = ("content", "reasoning", "reasoning_content")
_MOST_TOKENS = 100_000_000  # ten times the longest context of any model
_MOST_TEXT = 1 << 20
"""The most characters of an answer: it goes into the next prompt. 4096 tokens have far fewer."""
_CALL_CHARACTERS = 100  # a tool call counts as this many, plus its arguments
_TOKEN_ID = "token_id:"  # noqa: S105 - vLLM's mark, not a secret


@dataclass(slots=True)
class _ToolCall:
    """A tool call so far; its arguments come in pieces."""

    id: Any = ""
    name: Any = ""
    arguments: list[str] = field(default_factory=list)

    def message(self) -> Json:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class Answer:
    """The answer so far. `token_times` are the arrival times of the chunks with text.

    `usage_fault` says why a usage was rejected. `refusal` is the error that came in place of a
    stream.
    """

    token_times: list[float] = field(default_factory=list)
    usage: Usage | None = None
    usage_fault: str | None = None
    refusal: Refusal | None = None
    finish_reason: str | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    completion_token_ids: list[int] | None = None
    logprob_token_ids: list[int] | None = None
    done: bool = False
    failure: Failure | None = None
    _content: list[str] = field(default_factory=list, repr=False)
    _tool_calls: dict[int, _ToolCall] = field(default_factory=dict, repr=False)
    _text_left: int = _MOST_TEXT

    def add(self, data: bytes, at: float) -> bool:
        """Add one event that arrived at `at`; True if it had generated text.

        After an event that sets `failure`, all further events are ignored.
        """
        if self.failure is not None:
            return False
        if data == DONE:
            self.done = True
            return False
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as error:
            return self._fail(FailureReason.PROTOCOL, f"a chunk is not JSON: {error}")
        if not isinstance(chunk, dict):
            return self._fail(FailureReason.PROTOCOL, "a chunk is not a JSON object")
        if (error_object := error_in(chunk)) is not None:
            text = error_text(error_object)
            return self._fail(rest_in(text) or FailureReason.STREAM_ERROR, text)
        try:
            has_text = self._take_chunk(chunk, at)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            return self._fail(FailureReason.PROTOCOL, "a chunk is not one of a chat completion")
        if self._text_left < 0:
            return self._fail(FailureReason.PROTOCOL, "the answer's text does not end")
        return has_text

    def _take_chunk(self, chunk: Json, at: float) -> bool:
        if ids := chunk.get("prompt_token_ids"):
            self.prompt_token_ids = tuple(int(i) for i in ids)
        if chunk.get("usage") is not None:
            self._take_usage(chunk["usage"])
        choices = chunk.get("choices") or []
        texts = [self._take_choice(choice, at) for choice in choices]
        return any(texts)

    def _take_usage(self, usage: Any) -> None:
        if usage == {} and self.usage is not None:
            return  # nothing new
        try:
            self.usage, self.usage_fault = read_usage(usage), None
        except ImpossibleUsageError as error:
            self.usage, self.usage_fault = None, str(error)

    def _take_choice(self, choice: Json, at: float) -> bool:
        if (ids := choice.get("token_ids")) is not None:
            self.completion_token_ids = self.completion_token_ids or []
            self.completion_token_ids += [int(token) for token in ids]
        for entry in (choice.get("logprobs") or {}).get("content") or []:
            self._take_logprob(str(entry.get("token")))
        if choice.get("finish_reason") is not None:
            self.finish_reason = str(choice["finish_reason"])
        delta = choice.get("delta") or {}
        if delta.get("content"):
            self._content.append(str(delta["content"]))
            self._text_left -= len(self._content[-1])
        for call in delta.get("tool_calls") or []:
            self._take_tool_call(call)
        has_text = bool(delta.get("tool_calls")) or any(delta.get(name) for name in _TEXT_FIELDS)
        if has_text:
            self.token_times.append(at)
        return has_text

    def _take_logprob(self, token: str) -> None:
        """A generated token as "token_id:123", which `return_tokens_as_token_ids` asks for."""
        number = token.removeprefix(_TOKEN_ID)
        if token.startswith(_TOKEN_ID) and number.isdecimal():
            self.logprob_token_ids = self.logprob_token_ids or []
            self.logprob_token_ids.append(int(number))

    def _take_tool_call(self, delta: Json) -> None:
        index = int(delta.get("index", 0))
        if index not in self._tool_calls:
            self._tool_calls[index] = _ToolCall()
            self._text_left -= _CALL_CHARACTERS
        call, function = self._tool_calls[index], delta.get("function") or {}
        call.id = delta.get("id") or call.id
        call.name = function.get("name") or call.name
        call.arguments.append("" + (function.get("arguments") or ""))  # TypeError if it is no text
        self._text_left -= len(call.arguments[-1])

    def _fail(self, reason: FailureReason, detail: str) -> bool:
        self.failure = Failure(reason, detail)
        return False

    def end(self) -> Failure | None:
        """The failure of the answer after the stream has ended; None without one."""
        if self.failure is None and self.finish_reason == "abort":
            return Failure(
                FailureReason.ABORTED, "the engine aborted the request (is it shutting down?)"
            )
        if self.failure is None and not self.done:
            return Failure(FailureReason.STREAM_CUT, "the stream ended before [DONE]")
        return self.failure

    def message(self) -> Json:
        """The assistant's message for the history of the next request."""
        message: Json = {"role": "assistant", "content": "".join(self._content)}
        if self._tool_calls:
            message["tool_calls"] = [call.message() for _, call in sorted(self._tool_calls.items())]
        return message


class ImpossibleUsageError(ExporterError):
    """A usage object has impossible numbers."""


def read_usage(usage: Any) -> Usage:
    """The usage object of an OpenAI answer.

    A vLLM stream without --enable-prompt-tokens-details has no `prompt_tokens_details`, and a
    whole answer has null there: the cached tokens are unknown then, not 0. Even with the flag, vLLM
    before 0.24 leaves it out if 0 tokens were cached (analysis/hits/usage_details.py). Raises
    `ImpossibleUsageError` for impossible numbers: if one number is wrong, none can be trusted.
    """
    if not isinstance(usage, dict):
        raise ImpossibleUsageError("usage is not an object")
    details = usage.get("prompt_tokens_details")
    if not isinstance(details, dict | None):
        raise ImpossibleUsageError("usage has prompt_tokens_details that are not an object")
    cached = (details or {}).get("cached_tokens")
    prompt = _tokens("prompt_tokens", usage.get("prompt_tokens"), least=1)
    completion = _tokens("completion_tokens", usage.get("completion_tokens"))
    hit = None if cached is None else _tokens("cached_tokens", cached)
    if hit is not None and hit > prompt:
        raise ImpossibleUsageError(
            f"usage says that {hit:,} of {prompt:,} prompt tokens were cached"
        )
    return Usage(prompt, completion, hit)


def _tokens(name: str, value: Any, least: int = 0) -> int:
    if value is None:
        raise ImpossibleUsageError(f"usage has no {name}")
    if type(value) is not int or not least <= value <= _MOST_TOKENS:
        raise ImpossibleUsageError(error_text(f"usage says {name} {value!r:.40}"))
    return value
