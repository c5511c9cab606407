"""Brings messages, tools, answers and usage of three APIs into one form.

What no chat template renders, such as ids of calls, is left out.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from exporter.model.recorded import Api, Message, RecordedUsage, Tool
from exporter.recording.wrapped import json_or_same

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Field = tuple[str, str]

_TEXTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")
_TOOL_KEYS = ("name", "description", "parameters", "input_schema")
_REASONING = "reasoning"
_THINKING = ("thinking", "redacted_thinking")
"""Parts that are no text of their own. vLLM leaves redacted ones out of the prompt."""
_ITEM_ROLES = {"function_call": "assistant", "reasoning": "assistant"}


def message_of(raw: Any) -> Message:
    """One message, or one item of /v1/responses."""
    if not isinstance(raw, dict):
        return Message("user", (("content", raw if isinstance(raw, str) else dumped(raw)),))
    kind = raw.get("type")
    if kind == "function_call_output":
        return Message("tool", tuple(_texts("content", raw.get("output"))))
    role = str(raw.get("role") or _ITEM_ROLES.get(str(kind), "user"))
    return Message(role, tuple(_joined(_fields(raw))))


def system_of(value: Any) -> Message | None:
    """The system prompt that is a field of its own; None if there is none."""
    fields = tuple(_texts("content", value)) if value else ()
    return Message("system", fields) if fields else None


def _joined(fields: Iterator[Field]) -> Iterator[Field]:
    """The fields that have a text, with all reasoning in one, as a template gets it."""
    found = list(fields)
    reasoning = "".join(text for name, text in found if name == _REASONING)
    if reasoning:
        yield _REASONING, reasoning
    yield from (each for each in found if each[0] != _REASONING and each[1])


def _fields(raw: Mapping[str, Any]) -> Iterator[Field]:
    reasoning = raw.get("reasoning_content") or raw.get("reasoning")
    if isinstance(reasoning, str):
        yield _REASONING, reasoning
    if raw.get("type") == "reasoning":
        texts = _texts("", raw.get("content") or raw.get("summary"))
        yield from ((_REASONING, text) for _, text in texts)
    elif raw.get("type") == "function_call":
        yield from _call(0, raw)
    else:
        yield from _texts("content", raw.get("content"))
    calls = raw.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        yield from _call(number, call)


def _texts(name: str, content: Any) -> Iterator[Field]:
    """The fields of a content: one text, or its parts."""
    if content is None:
        return
    if isinstance(content, str):
        yield name, content
        return
    given = content if isinstance(content, list) else [content]
    yield from ((_REASONING, str(part.get("thinking") or "")) for part in given if _thinks(part))
    parts = [part for part in given if not _thinks(part)]
    calls = 0
    for number, part in enumerate(parts, start=1):
        place = name if len(parts) == 1 else f"{name}[{number}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_use":
            yield from _call(calls, part)
            calls += 1
        elif kind == "tool_result":
            yield from _texts(f"tool_result[{number}]", part.get("content"))
        else:
            yield from _part(place, part)


def _part(place: str, part: Any) -> Iterator[Field]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(part, str):
        yield place, part
    elif kind in _TEXTS:
        yield place, str(part.get("text") or part.get("refusal") or "")
    else:
        yield place, _digest(part)


def _thinks(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _THINKING


def _call(number: int, call: Any) -> Iterator[Field]:
    if not isinstance(call, dict):
        return
    function = call.get("function")
    named = function if isinstance(function, dict) else call
    arguments = named.get("arguments", named.get("input", ""))
    given = json_or_same(arguments)  # vLLM parses arguments before a template writes them
    text = given if isinstance(given, str) else dumped(given)
    yield f"tool_calls[{number}].name", str(named.get("name", ""))
    yield f"tool_calls[{number}].arguments", text


def _digest(part: Any) -> str:
    """A short text for an image, a file or what is not known: equal parts have equal texts."""
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if isinstance(part, dict):  # a marker of the cache is no part of the prompt
        part = {key: value for key, value in part.items() if key != "cache_control"}
    return f"<{kind} {hashlib.sha256(dumped(part).encode()).hexdigest()[:16]}>"


def tool_of(raw: Any) -> Tool:
    """One tool of a request."""
    function = raw.get("function") if isinstance(raw, dict) else None
    named = function if isinstance(function, dict) else raw
    name = named.get("name") or named.get("type") if isinstance(named, dict) else None
    if isinstance(named, dict):  # vLLM writes these keys in its own order
        first = {key: named[key] for key in _TOOL_KEYS if named.get(key) is not None}
        named = first or named
    return Tool(str(name or "?"), dumped(named))


def raw_answer_of(response: Any) -> tuple[Any, ...]:
    """The message or the items of an answer, as they came; none if it was not recorded."""
    if isinstance(response, str):
        return ({"role": "assistant", "content": response},)
    if not isinstance(response, dict):
        return ()
    if "body" in response:  # a batch file's
        return raw_answer_of(response["body"])
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        response = choices[0].get("message") or {}
    output = response.get("output")
    if isinstance(output, list):
        return tuple(output)
    is_answer = response.get("role") == "assistant" and response.keys() & {"content", "tool_calls"}
    kept = ("role", "content", "reasoning", "reasoning_content", "tool_calls")
    return ({key: response[key] for key in kept if response.get(key)},) if is_answer else ()


def usage_of(response: Any) -> RecordedUsage:
    """The usage of an answer, by the names of each API.

    Anthropic's prompt is `input_tokens` and what was read from and written to the cache
    (`_build_anthropic_usage` in `vllm/entrypoints/anthropic/serving.py`).
    """
    if isinstance(response, dict) and isinstance(response.get("body"), dict):
        response = response["body"]
    usage = response.get("usage") if isinstance(response, dict) else None
    if not isinstance(usage, dict):
        return RecordedUsage()
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    read = _count(usage, "cache_read_input_tokens")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    prompt = _count(usage, "prompt_tokens")
    if prompt is None and (given := _count(usage, "input_tokens")) is not None:
        prompt = given + (read or 0) + (_count(usage, "cache_creation_input_tokens") or 0)
    completion = _count(usage, "completion_tokens")
    return RecordedUsage(
        prompt,
        _count(usage, "output_tokens") if completion is None else completion,
        read if cached is None else cached,
    )


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def dumped(value: Any) -> str:
    """JSON with the keys in their order, as templates write it."""
    return json.dumps(value, ensure_ascii=False)


def items_of(body: Mapping[str, Any], api: Api) -> Sequence[Any]:
    """The list of messages or items in a body."""
    given = body.get("input" if api is Api.RESPONSES else "messages")
    return given if isinstance(given, list) else [given]
