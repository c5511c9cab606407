"""Brings logged messages and tools into the form that a scenario file has.

What no chat template renders is left out, and counted by name. Anthropic's blocks become OpenAI's
tool calls and results.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from exporter.scenario.message_checks import MESSAGE_FIELDS, ROLES

_ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}
_TEXT_TYPES = ("text", "input_text", "output_text")
_TOOL_KEYS = ("name", "description", "parameters", "strict")


@dataclass(slots=True)
class Cleaned:
    """Messages in a scenario's form. `changed` counts, by name, what was left out or replaced."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    _calls: list[str] = field(default_factory=list)  # without a result so far

    def add(self, message: Any) -> None:
        """Take one more message of the log."""
        if not isinstance(message, dict):
            self.changed["a message that is no object"] += 1
            return
        role = _ROLES.get(str(message.get("role")), message.get("role"))
        if role not in ROLES:
            self.changed["a message of another role"] += 1
            return
        content, calls, results = self._content(message.get("content"))
        for result in results:
            self._add_result(result)
        if role == "tool":
            self._add_result({**self._kept(message, role), "content": content or ""})
        elif role == "assistant":
            listed = message.get("tool_calls")
            calls += [self._call(each) for each in (listed if isinstance(listed, list) else [])]
            self._add_answer({**self._kept(message, role), "content": content}, calls)
        elif content is not None:
            self.messages.append({**self._kept(message, role), "content": content})
        elif not results:
            self.changed["a message without text"] += 1

    def _kept(self, message: dict[str, Any], role: str) -> dict[str, Any]:
        """The fields that a chat template can render, but content and tool calls."""
        kept = {"role": role}
        for key, value in message.items():
            if key in ("role", "content", "tool_calls") or not value:
                continue
            if key in MESSAGE_FIELDS.get(role, {"name"}) and isinstance(value, str):
                kept[key] = value
            else:
                self.changed[f"{key} of a message"] += 1
        return kept

    def _content(
        self, content: Any
    ) -> tuple[str | None, list[dict[str, Any]], list[dict[str, Any]]]:
        """The text of a message, and the tool calls and results in its blocks."""
        if content is None or isinstance(content, str):
            return content, [], []
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for part in content if isinstance(content, list) else [content]:
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(part, str):
                texts.append(part)
            elif kind in _TEXT_TYPES and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif kind == "tool_use":
                calls.append(self._call(part))
            elif kind == "tool_result":
                text, _, _ = self._content(part.get("content"))
                result = {"tool_call_id": part.get("tool_use_id"), "content": text or ""}
                results.append({"role": "tool", **result})
            else:
                known = isinstance(kind, str)
                self.changed[f"a part of type {kind!r}" if known else "a part without a type"] += 1
        return ("\n".join(texts) if texts else None), calls, results

    def _call(self, call: Any) -> dict[str, Any]:
        """A tool call of OpenAI, LangChain or Anthropic, as OpenAI's."""
        if not isinstance(call, dict):
            call = {}
        function = call.get("function")
        named = function if isinstance(function, dict) else call
        arguments: Any = next(
            (named[key] for key in ("arguments", "args", "input") if named.get(key) is not None), {}
        )
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
            self.changed["arguments of a call that are no text (written as text)"] += 1
        one = call.get("id") or f"call_{len(self.messages)}_{len(self._calls)}"
        function = {"name": named.get("name"), "arguments": arguments or "{}"}
        return {"id": one, "type": "function", "function": function}

    def _add_answer(self, message: dict[str, Any], calls: list[dict[str, Any]]) -> None:
        if not self.messages:
            self.changed["an answer before the first question"] += 1
            return
        if message["content"] is None and not calls:
            message["content"] = ""
        before = self.messages[-1]
        if before["role"] == "assistant":
            texts = [text for text in (before["content"], message["content"]) if text]
            before["content"] = "\n".join(texts) or before["content"]
            calls = [*before.pop("tool_calls", []), *calls]
            self.changed["an answer right after another (joined)"] += 1
            message = before
        else:
            self.messages.append(message)
        if calls:
            message["tool_calls"] = calls
            self._calls = [call["id"] for call in calls]

    def _add_result(self, result: dict[str, Any]) -> None:
        wanted = result.get("tool_call_id") or next(iter(self._calls), None)
        if wanted not in self._calls:
            self.changed["a tool result without its call"] += 1
            return
        self._calls.remove(str(wanted))
        self.messages.append({**result, "tool_call_id": wanted})


def cleaned_tool(tool: Any, changed: Counter[str]) -> dict[str, Any] | None:
    """A tool of OpenAI or Anthropic in OpenAI's form; None if it has no name."""
    function = tool.get("function") if isinstance(tool, dict) else None
    found = function if isinstance(function, dict) else tool
    if not isinstance(found, dict) or not found.get("name"):
        changed["a tool without a name"] += 1
        return None
    found = {"parameters": found.get("input_schema"), **found}
    kept = {key: found[key] for key in _TOOL_KEYS if found.get(key) is not None}
    return {"type": "function", "function": kept}
