"""Puts a streamed answer together, event by event. Each API's own events are in surfaces/."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from exporter.engine.wire.refusal import error_in, error_text, rest_in
from exporter.errors import ExporterError
from exporter.model.chat import Usage
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from exporter.engine.wire.refusal import Refusal

Json = dict[str, Any]
DONE = b"[DONE]"
_MOST_TOKENS = 100_000_000  # ten times the longest context of any model
_MOST_TEXT = 1 << 20
"""The most characters of an answer: it goes into the next prompt. 4096 tokens have far fewer."""
_CALL_CHARACTERS = 100  # a tool call counts as this many, plus its arguments


@dataclass(slots=True)
class ToolCall:
    """A tool call so far; its arguments come in pieces."""

    id: Any = ""
    name: Any = ""
    arguments: list[str] = field(default_factory=list)

    def message(self) -> Json:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class Answer:
    """The answer so far. `token_times` are the arrival times of the events with generated text.

    `usage_fault` says why a usage was rejected. `refusal` is the error that came in place of a
    stream. `finish_reason` is in the words of chat completions, on every API. `END` is the event
    that ends the stream of an API.
    """

    END: ClassVar[str] = ""

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
    _reasoning: list[str] = field(default_factory=list, repr=False)
    _tool_calls: dict[int, ToolCall] = field(default_factory=dict, repr=False)
    _text_left: int = _MOST_TEXT

    def add(self, data: bytes, at: float) -> bool:
        """Add one event that arrived at `at`; True if it had generated text.

        After an event that sets `failure`, all further events are ignored.
        """
        if self.failure is not None:
            return False
        if data == DONE:
            self.done = self.done or DONE.decode() == self.END
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
            has_text = self._take(chunk)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            return self._fail(FailureReason.PROTOCOL, "a chunk is not one of a chat completion")
        if has_text:
            self.token_times.append(at)
        if self._text_left < 0:
            return self._fail(FailureReason.PROTOCOL, "the answer's text does not end")
        return has_text

    def _take(self, chunk: Json) -> bool:
        """Take an event of the API; True if it has generated text."""
        raise NotImplementedError

    def _say(self, text: Any) -> bool:
        """Add content; True if there is any."""
        return self._put(self._content, text)

    def _think(self, text: Any) -> bool:
        """Add reasoning; True if there is any."""
        return self._put(self._reasoning, text)

    def _put(self, pieces: list[str], text: Any) -> bool:
        if text:
            pieces.append(str(text))
            self._text_left -= len(pieces[-1])
        return bool(text)

    def _call(self, index: int) -> ToolCall:
        """The tool call with this number, a new one if it has just begun."""
        if index not in self._tool_calls:
            self._tool_calls[index] = ToolCall()
            self._text_left -= _CALL_CHARACTERS
        return self._tool_calls[index]

    def _argue(self, call: ToolCall, arguments: Any) -> bool:
        """Add to the arguments of a call; True if there are any."""
        call.arguments.append("" + (arguments or ""))  # TypeError if it is no text
        self._text_left -= len(call.arguments[-1])
        return bool(arguments)

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
            return Failure(FailureReason.STREAM_CUT, f"the stream ended before {self.END}")
        return self.failure

    def message(self) -> Json:
        """The assistant's message for the history of the next request, as of chat completions."""
        message: Json = {"role": "assistant", "content": "".join(self._content)}
        if self._tool_calls:
            message["tool_calls"] = [call.message() for _, call in sorted(self._tool_calls.items())]
        return message

    def pieces(self) -> tuple[str, ...] | None:
        """The text of each event; None if the answer has other parts than text."""
        other = self._reasoning or self._tool_calls
        return None if other or not self._content else tuple(self._content)


class ImpossibleUsageError(ExporterError):
    """A usage object has impossible numbers."""


def token_count(name: str, value: Any, least: int = 0) -> int:
    """A number of tokens in a usage object. Raises `ImpossibleUsageError`."""
    if value is None:
        raise ImpossibleUsageError(f"usage has no {name}")
    if type(value) is not int or not least <= value <= _MOST_TOKENS:
        raise ImpossibleUsageError(error_text(f"usage says {name} {value!r:.40}"))
    return value


def checked_usage(prompt: int, completion: int, cached: int | None) -> Usage:
    """The usage of these numbers. Raises `ImpossibleUsageError` for more hits than tokens."""
    if cached is not None and cached > prompt:
        raise ImpossibleUsageError(
            f"usage says that {cached:,} of {prompt:,} prompt tokens were cached"
        )
    return Usage(prompt, completion, cached)


def details_of(usage: Json, name: str) -> Json:
    """An object of details within a usage object; empty where it is missing or null."""
    details = usage.get(name)
    if not isinstance(details, dict | None):
        raise ImpossibleUsageError(f"usage has {name} that are not an object")
    return details or {}
