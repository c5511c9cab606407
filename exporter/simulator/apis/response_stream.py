"""The items of a response, and the events with which they are streamed.

As `SimpleStreamingEventProcessor` of `openai/responses/streaming_events.py` of vLLM 0.32.0.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.simulator.apis.api import Json, event

if TYPE_CHECKING:
    from collections.abc import Iterator


def events_of(found: Iterator[Json], number: int) -> Iterator[str]:
    """The events as text, numbered from `number` on."""
    for place, data in enumerate(found, start=number):
        yield event(data | {"sequence_number": place}, data["type"])


@dataclass(slots=True)
class Items:
    """The items so far: `done` are complete, and one of them may be open."""

    done: list[Json] = field(default_factory=list)
    _kind: str | None = None
    _id: str = ""
    _call: Json = field(default_factory=dict)
    _text: str = ""

    def delta(self, delta: Json) -> Iterator[Json]:
        """The events of a chat delta: reasoning, text, and parts of calls."""
        if thought := delta.get("reasoning") or delta.get("reasoning_content"):
            yield from self._more("reasoning", thought)
        if text := delta.get("content"):
            yield from self._more("message", text)
        for call in delta.get("tool_calls") or ():
            if call.get("id") is not None:
                yield from self.close()
                self._call = {"call_id": call["id"], "name": call["function"]["name"]}
                yield from self._open("function_call")
            if arguments := call["function"].get("arguments"):
                self._text += arguments
                yield self._part("response.function_call_arguments.delta", delta=arguments)

    def _more(self, kind: str, text: str) -> Iterator[Json]:
        if self._kind != kind:
            yield from self.close()
            yield from self._open(kind)
        self._text += text
        name = "output_text" if kind == "message" else "reasoning_text"
        logprobs: Json = {"logprobs": []} if kind == "message" else {}
        yield self._part(f"response.{name}.delta", content_index=0, delta=text, **logprobs)

    def _open(self, kind: str) -> Iterator[Json]:
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        self._kind, self._id, self._text = kind, f"{prefix}_{secrets.token_hex(8)}", ""
        item = self._item("in_progress") | ({"content": []} if kind == "message" else {})
        yield self._added_or_done("added", item)
        if kind == "message":
            part: Json = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            yield self._part("response.content_part.added", content_index=0, part=part)
        elif kind == "reasoning":
            part = {"text": "", "type": "reasoning_text"}
            yield self._part("response.content_part.added", content_index=0, part=part)

    def close(self) -> Iterator[Json]:
        """The events that end the open item, if there is one."""
        if self._kind is None:
            return
        item = self._item("completed")
        if self._kind == "function_call":
            said = {"arguments": self._text, "name": self._call["name"]}
            yield self._part("response.function_call_arguments.done", **said)
        else:
            yield from self._end_of_text(item["content"][0])
        yield self._added_or_done("done", item)
        self.done.append(item)
        self._kind = None

    def _end_of_text(self, part: Json) -> Iterator[Json]:
        yield self._part(f"response.{part['type']}.done", content_index=0, text=self._text)
        yield self._part("response.content_part.done", content_index=0, part=part)

    def _item(self, status: str) -> Json:
        made: Json = {"id": self._id, "status": status, "type": self._kind}
        if self._kind == "function_call":
            return made | self._call | {"arguments": self._text}
        if self._kind == "reasoning":
            part: Json = {"text": self._text, "type": "reasoning_text"}
            return made | {"summary": [], "content": [part]}
        part = {"annotations": [], "text": self._text, "type": "output_text", "logprobs": None}
        return made | {"role": "assistant", "content": [part], "phase": None}

    def _added_or_done(self, what: str, item: Json) -> Json:
        kind = f"response.output_item.{what}"
        return {"item": item, "output_index": len(self.done), "type": kind}

    def _part(self, kind: str, **more: object) -> Json:
        place = {"item_id": self._id, "output_index": len(self.done)}
        return {"type": kind, **place, **more}
