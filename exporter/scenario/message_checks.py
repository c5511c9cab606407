"""Checks the messages, tool calls and tools of a scenario file.

Only fields that every chat template can render as text are accepted. Any other field that could
change the prompt is an error, because a replay without it would measure another conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Reporter = Callable[[str, str], None]
"""Reports an error: the field, and what is wrong with it."""

ROLES = ("system", "developer", "user", "assistant", "tool")
MESSAGE_FIELDS = {
    "assistant": {"role", "content", "name", "tool_calls", "reasoning", "reasoning_content"},
    "tool": {"role", "content", "name", "tool_call_id"},
}
_OTHER_FIELDS = {"role", "content", "name"}
_WITHOUT_MEANING = {"refusal", "annotations", "audio", "function_call", "tool_calls"}
"""Fields of OpenAI's answers that loggers keep. They are dropped if they are empty."""
_SHOWN = 40


def shown(value: object) -> str:
    """A value for an error message, cut short."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_message(message: Any, report: Reporter, open_calls: set[str]) -> dict[str, Any]:
    """The message to send. Errors go to `report`.

    `open_calls` are the ids of tool calls without a result; this function updates it.
    """
    if not isinstance(message, dict):
        report("", f"a message must be an object, not {shown(message)}")
        return {}
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        report("role", f"must be one of {', '.join(ROLES)}, not {shown(role)}")
        return {}
    kept = {
        key: value
        for key, value in message.items()
        if key == "content" or not (value is None or (key in _WITHOUT_MEANING and value == []))
    }
    known = MESSAGE_FIELDS.get(role, _OTHER_FIELDS)
    for key in sorted(kept.keys() - known):
        report(key, f"is not known in a message of role {role!r}: it could change the prompt")
    for key in ("name", "reasoning", "reasoning_content"):
        if key in kept and key in known:
            _text(kept[key], key, report)
    calls = kept.get("tool_calls") if role == "assistant" else None
    _check_content(kept, report, may_be_null=calls is not None)
    if role == "assistant":
        _check_calls(calls, report, open_calls)
    if role == "tool":
        _check_result(kept, report, open_calls)
    return kept


def _check_content(message: dict[str, Any], report: Reporter, *, may_be_null: bool) -> None:
    content = message.get("content")
    if isinstance(content, str):
        _text(content, "content", report)
        return
    if content is None:
        if not may_be_null:
            report("content", "is missing: only an assistant's message with tool calls may lack it")
        return
    if not isinstance(content, list) or not content:
        what = "an empty list" if content == [] else shown(content)
        report("content", f"must be text or a list of text parts, not {what}")
        return
    for index, part in enumerate(content):
        _check_part(part, f"content[{index}]", report)


def _check_part(part: Any, place: str, report: Reporter) -> None:
    if not isinstance(part, dict):
        report(place, f"a part must be an object, not {shown(part)}")
        return
    kind = part.get("type")
    if kind != "text":
        report(f"{place}.type", f"{shown(kind)} is not supported: only text parts are")
        return
    for key in sorted(part.keys() - {"type", "text"}):
        report(f"{place}.{key}", "is not known in a text part: it could change the prompt")
    _text(part.get("text"), f"{place}.text", report)


def _check_calls(calls: Any, report: Reporter, open_calls: set[str]) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        report("tool_calls", f"must be a list, not {shown(calls)}")
        return
    for index, call in enumerate(calls):
        place = f"tool_calls[{index}]"
        if not isinstance(call, dict):
            report(place, f"a call must be an object, not {shown(call)}")
            continue
        for key in sorted(call.keys() - {"id", "type", "function"}):
            report(f"{place}.{key}", "is not known in a tool call: it could change the prompt")
        if call.get("type") != "function":
            report(f"{place}.type", f'must be "function", not {shown(call.get("type"))}')
        if _text(call.get("id"), f"{place}.id", report):
            open_calls.add(call["id"])
        _check_function(call.get("function"), f"{place}.function", report)


def _check_function(function: Any, place: str, report: Reporter) -> None:
    if not isinstance(function, dict):
        report(place, f"must be an object, not {shown(function)}")
        return
    for key in sorted(function.keys() - {"name", "arguments"}):
        report(f"{place}.{key}", "is not known in a tool call: it could change the prompt")
    _text(function.get("name"), f"{place}.name", report)
    arguments = function.get("arguments")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else None
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):  # vLLM parses it before it renders the template
        report(f"{place}.arguments", f"must be text that is a JSON object, not {shown(arguments)}")


def _check_result(message: dict[str, Any], report: Reporter, open_calls: set[str]) -> None:
    wanted = message.get("tool_call_id")
    if not _text(wanted, "tool_call_id", report):
        return
    if wanted not in open_calls:
        report("tool_call_id", f"no earlier call with the id {shown(wanted)} waits for a result")
    open_calls.discard(str(wanted))


def check_tool(tool: Any, report: Reporter) -> None:
    """Check a tool's schema for the request."""
    if not isinstance(tool, dict):
        report("", f"a tool must be an object, not {shown(tool)}")
        return
    for key in sorted(tool.keys() - {"type", "function"}):
        report(key, "is not known in a tool: it could change the prompt")
    if tool.get("type") != "function":
        report("type", f'must be "function", not {shown(tool.get("type"))}')
    function = tool.get("function")
    if not isinstance(function, dict):
        report("function", f"must be an object, not {shown(function)}")
        return
    for key in sorted(function.keys() - {"name", "description", "parameters", "strict"}):
        report(f"function.{key}", "is not known in a tool: it could change the prompt")
    _text(function.get("name"), "function.name", report)
    if "description" in function:
        _text(function["description"], "function.description", report)
    if not isinstance(function.get("parameters", {}), dict):
        report("function.parameters", f"must be an object, not {shown(function['parameters'])}")
    if not isinstance(function.get("strict", False), bool):
        report("function.strict", f"must be true or false, not {shown(function['strict'])}")


def _text(value: Any, place: str, report: Reporter) -> bool:
    """Whether `value` is text that can be sent; reports the error if not."""
    if not isinstance(value, str):
        report(place, "is missing" if value is None else f"must be text, not {shown(value)}")
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        report(place, "has half of a surrogate pair, which is not valid text")
        return False
    return True
