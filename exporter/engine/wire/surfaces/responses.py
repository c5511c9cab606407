"""/v1/responses, OpenAI's newer API, as vLLM serves it.

By `vllm/entrypoints/openai/responses/` of vLLM 0.32.0, and what it answered:

- It puts the items of the input together to chat messages (`construct_input_messages`): reasoning,
  text and calls that follow each other are one answer. The prompt is that of the chat request
  which `rendered` gives.
- It takes `cache_salt`, since 0.10 (https://github.com/vllm-project/vllm/pull/20981). With
  `enable_response_messages` its last event has the token ids of prompt and answer, except of models
  with harmony's format.
- Its usage has `cached_tokens` also without --enable-prompt-tokens-details.
- The last event is `response.completed`, whatever the `status` in it. An answer that the engine
  aborted cannot be told from a whole one.
- It ignores the header that names a data-parallel rank, unlike the other two.
- With VLLM_ENABLE_RESPONSES_API_STORE it keeps each response for good, unless `store` is false.
"""

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
from exporter.engine.wire.refusal import error_text
from exporter.engine.wire.surfaces.surface import (
    Surface,
    reasoning_of,
    rendered_answer,
    text_of,
    without_system,
)
from exporter.model.failure import FailureReason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.request import ChatRequest, Objects
    from exporter.engine.wire.surfaces.surface import Message
    from exporter.model.chat import Usage

_TEXT = "response.output_text.delta"
_REASONING = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ARGUMENTS = "response.function_call_arguments.delta"
_LAST = ("response.completed", "response.incomplete")
_FINISH = {"incomplete": "length", "cancelled": "abort"}


def body(request: ChatRequest) -> Json:
    """The JSON object to send."""
    system, others = without_system(request.messages)
    made: Json = {
        "model": request.model,
        "input": [item for index, each in enumerate(others) for item in _items(each, index)],
        "max_output_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "store": False,
        "enable_response_messages": True,
    }
    if system:
        made["instructions"] = system
    if request.cache_salt is not None:
        made["cache_salt"] = request.cache_salt
    if request.tools:
        tools = [{"type": "function", **tool["function"]} for tool in request.tools]
        made |= {"tools": tools, "tool_choice": "none"}
    return made


def _items(message: Message, index: int) -> Iterator[Json]:
    """The items of one message, the one with this number."""
    role = message.get("role")
    if role == "tool":
        identity = message.get("tool_call_id")
        yield {"type": "function_call_output", "call_id": identity, "output": text_of(message)}
    elif role == "assistant":
        yield from _items_of_answer(message, index)
    else:
        yield {"type": "message", "role": role, "content": _content(message)}


def _content(message: Message) -> Any:
    content = message.get("content")
    if not isinstance(content, list):
        return content
    return [{"type": "input_text", "text": part.get("text")} for part in content]


def _items_of_answer(message: Message, index: int) -> Iterator[Json]:
    reasoning, calls, text = reasoning_of(message), message.get("tool_calls"), text_of(message)
    if reasoning:
        content = [{"type": "reasoning_text", "text": reasoning}]
        yield {"type": "reasoning", "id": f"rs_{index}", "summary": [], "content": content}
    if text or not (reasoning or calls):
        content = [{"type": "output_text", "text": text}]
        yield {"type": "message", "role": "assistant", "content": content}
    for call in calls or ():
        name, arguments = (call["function"].get(key) for key in ("name", "arguments"))
        yield {"type": "function_call", "call_id": call["id"], "name": name, "arguments": arguments}


def rendered(messages: Objects) -> list[Message]:
    """The messages of the chat request that vLLM makes of these."""
    return [
        rendered_answer(message) if message.get("role") == "assistant" else message
        for message in messages
    ]


@dataclass(slots=True)
class ResponsesAnswer(Answer):
    """An answer in items; `response.completed` ends it. A call begins with text: its name."""

    END = "response.completed"

    def _take(self, chunk: Json) -> bool:
        kind = chunk["type"]
        if kind == _TEXT:
            return self._say(chunk["delta"])
        if kind in _REASONING:
            return self._think(chunk["delta"])
        if kind == _ARGUMENTS:
            return self._argue(self._call(int(chunk["output_index"])), chunk["delta"])
        if kind == "response.output_item.added":
            return self._begin(int(chunk["output_index"]), chunk["item"])
        if kind in _LAST:
            self._finish(chunk["response"])
        elif kind == "response.failed":
            self._fail(FailureReason.STREAM_ERROR, error_text(chunk["response"].get("error")))
        elif kind == "error":
            self._fail(FailureReason.STREAM_ERROR, error_text(chunk))
        return False

    def _begin(self, index: int, item: Json) -> bool:
        if item["type"] != "function_call":
            return False
        call = self._call(index)
        call.id, call.name = item["call_id"], item["name"]
        return True

    def _finish(self, response: Json) -> None:
        self.done = True
        made_call = "tool_calls" if self._tool_calls else "stop"
        self.finish_reason = _FINISH.get(response.get("status") or "", made_call)
        self.prompt_token_ids = _ids(response.get("input_messages"))
        answer = _ids(response.get("output_messages"))
        self.completion_token_ids = None if answer is None else list(answer)
        if response.get("usage") is None:
            return
        try:
            self.usage = read_usage(response["usage"])
        except ImpossibleUsageError as error:
            self.usage_fault = str(error)

    def message(self) -> Json:
        message = Answer.message(self)  # without super(): a class with slots is made twice
        if self._reasoning:
            message["reasoning"] = "".join(self._reasoning)
        return message


def _ids(messages: Any) -> tuple[int, ...] | None:
    """The token ids of raw messages; None where there are none, or one lacks them."""
    if not isinstance(messages, list) or not messages:
        return None
    found = [each.get("tokens") if isinstance(each, dict) else None for each in messages]
    if not all(isinstance(ids, list) for ids in found):
        return None
    return tuple(int(token) for ids in found for token in ids or ())


def read_usage(usage: Any) -> Usage:
    """The usage object of a response. Raises `ImpossibleUsageError` for impossible numbers."""
    if not isinstance(usage, dict):
        raise ImpossibleUsageError("usage is not an object")
    cached = details_of(usage, "input_tokens_details").get("cached_tokens")
    return checked_usage(
        token_count("input_tokens", usage.get("input_tokens"), least=1),
        token_count("output_tokens", usage.get("output_tokens")),
        None if cached is None else token_count("cached_tokens", cached),
    )


SURFACE = Surface("responses", "/v1/responses", body, ResponsesAnswer, rendered)
