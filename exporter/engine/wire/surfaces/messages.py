"""/v1/messages, Anthropic's API, as vLLM serves it.

By `vllm/entrypoints/anthropic/` of vLLM 0.32.0, and what it answered:

- It makes a chat request of what it gets (`to_chat_completion_request`), so the prompt is that of
  the chat request which `rendered` gives.
- It takes `cache_salt` (not before mid-2026: https://github.com/vllm-project/vllm/pull/49498), but
  neither `return_token_ids` nor `logprobs`, and ignores fields that it does not know.
- The usage of `message_start` has the whole prompt as `input_tokens`. That of `message_delta`, at
  the end, splits it: `input_tokens` is what is left without `cache_read_input_tokens` and
  `cache_creation_input_tokens`. Without --enable-prompt-tokens-details it has no cache fields.
- It drops the first line of a system message that begins with `x-anthropic-billing-header`; so do
  chat completions since then (`_strip_claude_code_billing_header` of `renderers/chat_utils.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporter.engine.wire.answer import (
    Answer,
    ImpossibleUsageError,
    checked_usage,
    token_count,
)
from exporter.engine.wire.surfaces.surface import (
    Surface,
    arguments_of,
    reasoning_of,
    rendered_answer,
    text_of,
    without_system,
)

if TYPE_CHECKING:
    from exporter.engine.wire.answer import Json
    from exporter.engine.wire.request import ChatRequest, Objects
    from exporter.engine.wire.surfaces.surface import Message
    from exporter.model.chat import Usage

_SYSTEM = ("system", "developer")  # it knows no developer
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    None: "abort",  # vLLM has no word for it (`_to_anthropic_stop_reason`)
}
_SIGNATURE = "reasoning_signature"
"""A field of a message in our history alone: the signature of its reasoning."""


def body(request: ChatRequest) -> Json:
    """The JSON object to send."""
    system, others = without_system(request.messages)
    made: Json = {
        "model": request.model,
        "messages": _messages(others),
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
    }
    if system:
        made["system"] = system
    if request.cache_salt is not None:
        made["cache_salt"] = request.cache_salt
    if request.tools:
        made |= {"tools": [_tool(tool) for tool in request.tools], "tool_choice": {"type": "none"}}
    return made


def _tool(tool: Message) -> Json:
    function = tool["function"]
    made = {key: function[key] for key in ("name", "description", "strict") if key in function}
    return made | {"input_schema": function.get("parameters") or {"type": "object"}}


def _messages(messages: Objects) -> list[Json]:
    """The messages; results of tools that follow each other are in one message, as agents send."""
    made: list[Json] = []
    of_tools = False
    for message in messages:
        is_result = message.get("role") == "tool"
        if is_result and of_tools:
            made[-1]["content"].append(_result(message))
        else:
            made.append(_message(message))
        of_tools = is_result
    return made


def _message(message: Message) -> Json:
    role = message.get("role")
    if role == "tool":
        return {"role": "user", "content": [_result(message)]}
    if role == "assistant":
        return {"role": "assistant", "content": _blocks(message) or ""}
    if role in _SYSTEM:
        return {"role": "system", "content": text_of(message)}
    return {"role": role, "content": message.get("content")}


def _result(message: Message) -> Json:
    identity = message.get("tool_call_id")
    return {"type": "tool_result", "tool_use_id": identity, "content": text_of(message)}


def _blocks(message: Message) -> list[Json]:
    """The content of an answer: what it thought, said and called, in this order."""
    blocks: list[Json] = []
    if reasoning := reasoning_of(message):
        signature = message.get(_SIGNATURE) or ""
        blocks.append({"type": "thinking", "thinking": reasoning, "signature": signature})
    if text := text_of(message):
        blocks.append({"type": "text", "text": text})
    for call in message.get("tool_calls") or ():
        name, arguments = call["function"].get("name"), arguments_of(call)
        blocks.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
    return blocks


def rendered(messages: Objects) -> list[Message]:
    """The messages of the chat request that vLLM makes of these."""
    return [_rendered(message) for message in messages]


def _rendered(message: Message) -> Message:
    role = message.get("role")
    if role == "assistant":
        return rendered_answer(message)
    return {**message, "role": "system"} if role in _SYSTEM else message


@dataclass(slots=True)
class MessagesAnswer(Answer):
    """An answer in blocks; `message_stop` ends it. A block of tool use begins with text: its name.

    `_counted` is the usage so far, by name.
    """

    END = "message_stop"

    _counted: Json = field(default_factory=dict)
    _signature: str = ""

    def _take(self, chunk: Json) -> bool:
        match chunk["type"]:
            case "message_start":
                self._take_usage(chunk["message"].get("usage"))
            case "content_block_start":
                return self._begin(int(chunk["index"]), chunk["content_block"])
            case "content_block_delta":
                return self._take_delta(int(chunk["index"]), chunk["delta"])
            case "message_delta":
                self.finish_reason = _FINISH.get(chunk["delta"].get("stop_reason"), "stop")
                self._take_usage(chunk.get("usage"))
            case "message_stop":
                self.done = True
        return False

    def _begin(self, index: int, block: Json) -> bool:
        if block["type"] != "tool_use":
            return False
        call = self._call(index)
        call.id, call.name = block["id"], block["name"]
        return True

    def _take_delta(self, index: int, delta: Json) -> bool:
        match delta["type"]:
            case "text_delta":
                return self._say(delta["text"])
            case "thinking_delta":
                return self._think(delta["thinking"])
            case "input_json_delta":
                return self._argue(self._call(index), delta["partial_json"])
            case "signature_delta":
                self._signature = str(delta["signature"])
        return False

    def _take_usage(self, usage: Any) -> None:
        """Take the usage so far. One that counts the input says all of it again."""
        if usage is None:
            return
        if not isinstance(usage, dict):
            self.usage, self.usage_fault = None, "usage is not an object"
            return
        if usage.get("input_tokens") is not None:
            self._counted = {}
        self._counted |= {name: value for name, value in usage.items() if value is not None}
        try:
            self.usage, self.usage_fault = read_usage(self._counted), None
        except ImpossibleUsageError as error:
            self.usage, self.usage_fault = None, str(error)

    def message(self) -> Json:
        message = Answer.message(self)  # without super(): a class with slots is made twice
        if self._reasoning:
            message |= {"reasoning": "".join(self._reasoning), _SIGNATURE: self._signature}
        return message


def read_usage(usage: Json) -> Usage:
    """The usage object of a message: its prompt is what was read, written and neither of both.

    A cache field that is missing is unknown, not 0. Raises `ImpossibleUsageError` for impossible
    numbers.
    """
    read, created = (
        None if usage.get(name) is None else token_count(name, usage[name])
        for name in ("cache_read_input_tokens", "cache_creation_input_tokens")
    )
    others = token_count("input_tokens", usage.get("input_tokens"))
    prompt = token_count("input_tokens", others + (read or 0) + (created or 0), least=1)
    completion = token_count("output_tokens", usage.get("output_tokens"))
    return checked_usage(prompt, completion, read)


SURFACE = Surface("messages", "/v1/messages", body, MessagesAnswer, rendered, by_text=True)
