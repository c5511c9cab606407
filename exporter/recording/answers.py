"""Puts a streamed answer together again, in the shape that the API has without a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from exporter.engine.wire.sse import Decoder
from exporter.model.recorded import Api
from exporter.recording.wrapped import objects, parsed

Json = dict[str, Any]

_MOST_BYTES = 64 << 20
"""Of one answer. Of a longer one the rest is not kept."""
_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


@dataclass(slots=True)
class StreamedAnswer:
    """One answer as it comes. Unknown events and fields are left out."""

    api: Api
    _decoder: Decoder = field(default_factory=Decoder)
    _bytes: int = 0
    _message: Json = field(default_factory=dict)
    _parts: dict[int, Json] = field(default_factory=dict)
    _usage: Json = field(default_factory=dict)
    _whole: Json | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream."""
        self._bytes += len(chunk)
        if self._bytes > _MOST_BYTES:
            return
        for event in self._decoder.feed(chunk):
            value = parsed(event.data)
            if not isinstance(value, dict):
                continue
            if self.api is Api.CHAT:
                self._add_chat(value)
            elif self.api is Api.MESSAGES:
                self._add_block(value)
            elif isinstance(value.get("response"), dict) and value["response"].get("output"):
                self._whole = value["response"]

    def response(self) -> Json | None:
        """The answer so far; None if nothing of it came."""
        if self.api is Api.RESPONSES:
            return None if self._whole is None else _kept(self._whole, ("output", "usage"))
        if not (self._message or self._parts or self._usage):
            return None
        usage = {"usage": self._usage} if self._usage else {}
        parts = [self._parts[key] for key in sorted(self._parts)]
        if self.api is Api.CHAT:
            message = {"role": "assistant", **self._message}
            if parts:
                message["tool_calls"] = parts
            return {"choices": [{"message": message}], **usage}
        return {"role": "assistant", "content": parts, **usage}

    def _add_chat(self, chunk: Json) -> None:
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        choices = chunk.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        delta = first.get("delta") if isinstance(first, dict) else None
        if not isinstance(delta, dict) or first is None or first.get("index", 0) != 0:
            return
        for key in ("content", "reasoning", "reasoning_content"):
            if isinstance(delta.get(key), str):
                self._message[key] = self._message.get(key, "") + delta[key]
        for call in objects(delta.get("tool_calls")):
            self._add_call(call)

    def _add_call(self, call: Json) -> None:
        number = call.get("index", 0)
        empty = {"type": "function", "function": {"name": "", "arguments": ""}}
        known = self._parts.setdefault(number, empty)
        known |= {"id": call["id"]} if call.get("id") else {}
        function = call.get("function")
        for key in ("name", "arguments"):
            if isinstance(function, dict) and isinstance(function.get(key), str):
                known["function"][key] += function[key]

    def _add_block(self, event: Json) -> None:
        for holder in (event.get("message"), event):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                self._usage |= holder["usage"]
        number, block, delta = event.get("index"), event.get("content_block"), event.get("delta")
        if not isinstance(number, int):
            return
        if isinstance(block, dict):
            self._parts[number] = dict(block)
        elif isinstance(delta, dict) and number in self._parts:
            self._add_delta(self._parts[number], delta)
        elif event.get("type") == "content_block_stop" and number in self._parts:
            text = self._parts[number].pop("partial_json", None)
            if text is not None:
                self._parts[number]["input"] = parsed(text) or {}

    def _add_delta(self, block: Json, delta: Json) -> None:
        key = _TEXTS.get(str(delta.get("type")))
        text = delta.get("partial_json" if key == "partial_json" else str(key))
        if key is not None and isinstance(text, str):
            block[key] = block.get(key, "") + text


def whole_answer(body: bytes, api: Api) -> Json | None:
    """What is kept of an answer that is not streamed; None if it is no answer."""
    value = parsed(body)
    if not isinstance(value, dict):
        return None
    if api is Api.CHAT:
        choices = objects(value.get("choices"))
        message = [{"message": one["message"]} for one in choices if one.get("message")]
        return {"choices": message[:1], **_kept(value, ("usage",))}
    return _kept(value, ("role", "content", "output", "usage"))


def _kept(value: Json, keys: tuple[str, ...]) -> Json:
    return {key: value[key] for key in keys if value.get(key) is not None}
