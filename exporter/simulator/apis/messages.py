"""/v1/messages and its count of tokens, as `vllm/entrypoints/anthropic` of vLLM 0.32.0."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, field_validator

from exporter.simulator import requests
from exporter.simulator.apis.api import Api, Json, Played, event
from exporter.simulator.text.template import content_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

_BILLING = "x-anthropic-billing-header"


class _Message(BaseModel):
    role: str
    content: str | list[Json]


class _Counted(BaseModel):
    """What the count of tokens reads."""

    model: str
    messages: list[_Message]
    system: str | list[Json] | None = None
    tools: list[Json] | None = None
    tool_choice: Json | None = None
    chat_template_kwargs: Json | None = None


class _Request(_Counted):
    """The fields that the simulator uses. vLLM ignores unknown ones too."""

    max_tokens: int
    stream: bool | None = False
    temperature: float | None = None
    stop_sequences: list[str] | None = None
    cache_salt: str | None = Field(default=None, min_length=1, max_length=1024)

    @field_validator("max_tokens")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value <= 0:
            raise ValueError("max_tokens must be positive")
        return value


def chat_body(body: Json) -> Json:
    """The chat request of a message (`to_chat_completion_request`)."""
    asked = requests.parse(_Request, body)
    made = _rendered(asked) | {
        "max_tokens": asked.max_tokens,
        "stop": asked.stop_sequences,
        "temperature": asked.temperature,
        "cache_salt": asked.cache_salt,
    }
    if asked.stream:
        options = {"include_usage": True, "continuous_usage_stats": True}
        made |= {"stream": True, "stream_options": options}
    return made


def counted_body(body: Json) -> Json:
    """The /tokenize request whose count is that of the message."""
    return _rendered(requests.parse(_Counted, body))


def count(tokenized: Json) -> Json:
    """The answer to a count of tokens."""
    counted = tokenized["count"]
    return {"input_tokens": counted, "context_management": {"original_input_tokens": counted}}


def _rendered(asked: _Counted) -> Json:
    """The parts of a request that its prompt is made of."""
    made: Json = {
        "model": asked.model,
        "messages": list(_chat_messages(asked)),
        "chat_template_kwargs": asked.chat_template_kwargs,
    }
    if asked.tools:
        made |= {"tools": [_tool(tool) for tool in asked.tools], "tool_choice": _choice(asked)}
    return made


def _tool(tool: Json) -> Json:
    function = {"name": tool.get("name"), "description": tool.get("description")}
    return {"type": "function", "function": {**function, "parameters": tool.get("input_schema")}}


def _choice(asked: _Counted) -> Any:
    choice = asked.tool_choice or {"type": "auto"}
    if choice.get("type") != "tool":
        return {"any": "required"}.get(str(choice.get("type")), choice.get("type"))
    name = choice.get("name")
    if name not in [tool.get("name") for tool in asked.tools or ()]:
        raise requests.WireError(f"The tool with name '{name}' is not found in the tools list.")
    return {"type": "function", "function": {"name": name}}


def _chat_messages(asked: _Counted) -> Iterator[Json]:
    if system := _system_text(asked.system):
        yield {"role": "system", "content": system}
    for message in asked.messages:
        if message.role == "system":
            if text := _system_text(message.content):
                yield {"role": "system", "content": text}
        elif isinstance(message.content, str):
            yield {"role": message.role, "content": message.content}
        else:
            yield from _of_blocks(message.role, message.content)


def _system_text(content: str | list[Json] | None) -> str:
    """The text without the lines that a coding agent writes for its bill."""
    if isinstance(content, str):
        return content.partition("\n")[2] if content.startswith(_BILLING) else content
    texts = (str(block.get("text") or "") for block in content or ())
    return "".join(text for text in texts if not text.startswith(_BILLING))


def _of_blocks(role: str, blocks: Sequence[Json]) -> Iterator[Json]:
    """The chat messages of one message: results of tools come before its text."""
    made: Json = {"role": role}
    parts: list[Json] = []
    for block in blocks:
        match block.get("type"):
            case "text" if block.get("text"):
                parts.append({"type": "text", "text": block["text"]})
            case "thinking":
                made["reasoning"] = made.get("reasoning", "") + str(block.get("thinking") or "")
            case "tool_use":
                made.setdefault("tool_calls", []).append(_call(block))
            case "tool_result":
                text = content_text(block.get("content"))
                identity = block.get("tool_use_id") or ""
                yield {"role": "tool", "tool_call_id": identity, "content": text}
    if parts:
        made["content"] = parts[0]["text"] if len(parts) == 1 else parts
    if role != "user" or parts:
        yield made


def _call(block: Json) -> Json:
    arguments = json.dumps(block.get("input") or {})
    function = {"name": block.get("name") or "", "arguments": arguments}
    return {"id": block.get("id"), "type": "function", "function": function}


def _usage(usage: Json | None) -> Json:
    """Usage by Anthropic's names (`_build_anthropic_usage`). A cache field may be missing."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    details = usage.get("prompt_tokens_details") or {}
    read, created = details.get("cached_tokens"), details.get("created_cache_tokens")
    others = (usage.get("prompt_tokens") or 0) - (read or 0) - (created or 0)
    made = {"input_tokens": max(0, others), "output_tokens": usage.get("completion_tokens") or 0}
    if created is not None:
        made["cache_creation_input_tokens"] = created
    if read is not None:
        made["cache_read_input_tokens"] = read
    return made


def _stop_reason(finish: str | None, stop: str | None, *, used_tool: bool) -> Json:
    """`_to_anthropic_stop_reason`. It has no word for an answer that was aborted."""
    if finish == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if finish not in ("stop", "tool_calls"):
        return {"stop_reason": None, "stop_sequence": None}
    if used_tool:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def whole(_chat: Played, answer: Json) -> Json:
    """The message of an answer that is not streamed. Nulls are left out."""
    choice = answer["choices"][0]
    said, content = choice["message"], []
    if reasoning := said.get("reasoning") or said.get("reasoning_content"):
        signature = secrets.token_hex(16)
        content.append({"type": "thinking", "thinking": reasoning, "signature": signature})
    if said.get("content"):
        content.append({"type": "text", "text": said["content"]})
    for call in said.get("tool_calls") or ():
        function = call["function"]
        used = {"type": "tool_use", "id": call["id"], "name": function["name"]}
        content.append({**used, "input": json.loads(function["arguments"])})
    end = _stop_reason(
        choice["finish_reason"], choice["stop_reason"], used_tool=bool(said.get("tool_calls"))
    )
    made = {
        "id": answer["id"],
        "type": "message",
        "role": "assistant",
        "content": content or [{"type": "text", "text": ""}],
        "model": answer["model"],
        **{name: value for name, value in end.items() if value is not None},
    }
    return made | {"usage": _usage(answer.get("usage"))}


@dataclass(slots=True)
class _Blocks:
    """The blocks of a streamed message: one is open at a time."""

    index: int = 0
    open: str | None = None
    used_tool: bool = False
    _signature: str = field(default_factory=lambda: secrets.token_hex(16))

    def delta(self, kind: str, delta: Json, block: Json | None = None) -> Iterator[str]:
        """A delta in a block of this kind. `block` begins one of its own."""
        if self.open != kind or block is not None:
            yield from self.close()
            yield from self._begin(kind, block or {"type": kind, kind: ""})
        if delta:
            yield from _named({"type": "content_block_delta", "delta": delta, "index": self.index})

    def _begin(self, kind: str, block: Json) -> Iterator[str]:
        self.open, self.used_tool = kind, self.used_tool or kind == "tool_use"
        start = {"type": "content_block_start", "content_block": block, "index": self.index}
        yield from _named(start)

    def close(self) -> Iterator[str]:
        if self.open is None:
            return
        if self.open == "thinking":
            delta = {"type": "signature_delta", "signature": self._signature}
            yield from _named({"type": "content_block_delta", "delta": delta, "index": self.index})
        yield from _named({"type": "content_block_stop", "index": self.index})
        self.open, self.index = None, self.index + 1


def _named(data: Json) -> Iterator[str]:
    yield event(data, data["type"])


async def events(_chat: Played, chunks: AsyncIterator[Json]) -> AsyncGenerator[str, None]:
    """The events of a streamed message (`message_stream_converter`)."""
    blocks, finish, stop = _Blocks(), None, None
    begun = False
    async for chunk in chunks:
        if not begun:
            begun = True
            for each in _named(_start(chunk)):
                yield each
            continue
        choices = chunk["choices"]
        if not choices:
            for each in blocks.close():
                yield each
            end = _stop_reason(finish or "stop", stop, used_tool=blocks.used_tool)
            data = {"type": "message_delta", "delta": end, "usage": _usage(chunk.get("usage"))}
            for each in _named(data):
                yield each
            continue
        finish = choices[0].get("finish_reason") or finish
        stop = choices[0].get("stop_reason") or stop
        for each in _of_delta(blocks, choices[0]["delta"]):
            yield each


def _start(chunk: Json) -> Json:
    message = {"id": chunk["id"], "type": "message", "role": "assistant", "content": []}
    message |= {"model": chunk["model"], "stop_reason": None, "stop_sequence": None}
    return {"type": "message_start", "message": message | {"usage": _usage(chunk.get("usage"))}}


def _of_delta(blocks: _Blocks, delta: Json) -> Iterator[str]:
    if thought := delta.get("reasoning") or delta.get("reasoning_content"):
        yield from blocks.delta("thinking", {"type": "thinking_delta", "thinking": thought})
    if text := delta.get("content"):
        yield from blocks.delta("text", {"type": "text_delta", "text": text})
    for call in delta.get("tool_calls") or ():
        function, block = call["function"], None
        if call.get("id") is not None:
            block = {"type": "tool_use", "id": call["id"], "name": function["name"], "input": {}}
        arguments = function.get("arguments")
        part = {"type": "input_json_delta", "partial_json": arguments} if arguments else {}
        yield from blocks.delta("tool_use", part, block)


def refused(error: Json) -> Json:
    """The error object of Anthropic; vLLM's web framework refuses wrong fields in OpenAI's form."""
    found = error.get("error")
    if not isinstance(found, dict) or found.get("type") == "Bad Request":
        return error
    return {"type": "error", "error": {"type": found["type"], "message": found["message"]}}


def _broken(_error: Json) -> str:
    # Seen on 0.32.0: the converter does not know the error's chunk, and says so.
    message = "1 validation error for ChatCompletionStreamResponse"
    error = {"type": "internal_error", "message": message}
    return event({"type": "error", "error": error}, "error")


API = Api(
    chat_body=chat_body,
    whole=whole,
    events=events,
    last=event({"type": "message_stop"}, "message_stop"),
    broken=_broken,
    refused=refused,
    limit="max_completion_tokens",
)
