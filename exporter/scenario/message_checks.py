"""What one recorded message, one tool call and one tool may hold.

Only what all chat templates can be given as text is let through; whatever else could change the
prompt is refused by name, since a replay that leaves it out would measure another conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Reporter = Callable[[str, str], None]
"""Tells a mistake: the field, and what is wrong with it."""

ROLES = ("system", "developer", "user", "assistant", "tool")
_FIELDS = {
    "assistant": {"role", "content", "name", "tool_calls", "reasoning", "reasoning_content"},
    "tool": {"role", "content", "name", "tool_call_id"},
}
_OTHER_FIELDS = {"role", "content", "name"}
_WITHOUT_MEANING = {"refusal", "annotations", "audio", "function_call", "tool_calls"}
"""Fields of OpenAI's answers that loggers keep; empty they say nothing and are left out."""
_SHOWN = 40


def shown(value: object) -> str:
    """A value in a mistake, cut short."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def check_message(message: Any, tell: Reporter, open_calls: set[str]) -> dict[str, Any]:
    """The message as it is sent; mistakes go to `tell`.

    `open_calls` are the ids of tool calls that have no result yet; it is kept up to date.
    """
    if not isinstance(message, dict):
        tell("", f"a message must be an object, not {shown(message)}")
        return {}
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        tell("role", f"must be one of {', '.join(ROLES)}, not {shown(role)}")
        return {}
    kept = {
        key: value
        for key, value in message.items()
        if key == "content" or not (value is None or (key in _WITHOUT_MEANING and value == []))
    }
    known = _FIELDS.get(role, _OTHER_FIELDS)
    for key in sorted(kept.keys() - known):
        tell(key, f"is not known in a message of role {role!r}: it could change the prompt")
    for key in ("name", "reasoning", "reasoning_content"):
        if key in kept and key in known:
            _text(kept[key], key, tell)
    calls = kept.get("tool_calls") if role == "assistant" else None
    _check_content(kept, tell, may_be_null=calls is not None)
    if role == "assistant":
        _check_calls(calls, tell, open_calls)
    if role == "tool":
        _check_result(kept, tell, open_calls)
    return kept


def _check_content(message: dict[str, Any], tell: Reporter, *, may_be_null: bool) -> None:
    content = message.get("content")
    if isinstance(content, str):
        _text(content, "content", tell)
        return
    if content is None:
        if not may_be_null:
            tell("content", "is missing: only an assistant that calls tools may say nothing")
        return
    if not isinstance(content, list) or not content:
        what = "an empty list" if content == [] else shown(content)
        tell("content", f"must be text or a list of text parts, not {what}")
        return
    for index, part in enumerate(content):
        _check_part(part, f"content[{index}]", tell)


def _check_part(part: Any, place: str, tell: Reporter) -> None:
    if not isinstance(part, dict):
        tell(place, f"a part must be an object, not {shown(part)}")
        return
    kind = part.get("type")
    if kind != "text":
        tell(f"{place}.type", f"{shown(kind)} is not played: only text parts are")
        return
    for key in sorted(part.keys() - {"type", "text"}):
        tell(f"{place}.{key}", "is not known in a text part: it could change the prompt")
    _text(part.get("text"), f"{place}.text", tell)


def _check_calls(calls: Any, tell: Reporter, open_calls: set[str]) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        tell("tool_calls", f"must be a list, not {shown(calls)}")
        return
    for index, call in enumerate(calls):
        place = f"tool_calls[{index}]"
        if not isinstance(call, dict):
            tell(place, f"a call must be an object, not {shown(call)}")
            continue
        for key in sorted(call.keys() - {"id", "type", "function"}):
            tell(f"{place}.{key}", "is not known in a tool call: it could change the prompt")
        if call.get("type") != "function":
            tell(f"{place}.type", f'must be "function", not {shown(call.get("type"))}')
        if _text(call.get("id"), f"{place}.id", tell):
            open_calls.add(call["id"])
        _check_function(call.get("function"), f"{place}.function", tell)


def _check_function(function: Any, place: str, tell: Reporter) -> None:
    if not isinstance(function, dict):
        tell(place, f"must be an object, not {shown(function)}")
        return
    for key in sorted(function.keys() - {"name", "arguments"}):
        tell(f"{place}.{key}", "is not known in a tool call: it could change the prompt")
    _text(function.get("name"), f"{place}.name", tell)
    arguments = function.get("arguments")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else None
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):  # vLLM parses it before it renders the template
        tell(f"{place}.arguments", f"must be text that is a JSON object, not {shown(arguments)}")


def _check_result(message: dict[str, Any], tell: Reporter, open_calls: set[str]) -> None:
    wanted = message.get("tool_call_id")
    if not _text(wanted, "tool_call_id", tell):
        return
    if wanted not in open_calls:
        tell(
            "tool_call_id", f"no call before this has the id {shown(wanted)} and waits for a result"
        )
    open_calls.discard(str(wanted))


def check_tool(tool: Any, tell: Reporter) -> None:
    """A tool's schema, as it goes into the request."""
    if not isinstance(tool, dict):
        tell("", f"a tool must be an object, not {shown(tool)}")
        return
    for key in sorted(tool.keys() - {"type", "function"}):
        tell(key, "is not known in a tool: it could change the prompt")
    if tool.get("type") != "function":
        tell("type", f'must be "function", not {shown(tool.get("type"))}')
    function = tool.get("function")
    if not isinstance(function, dict):
        tell("function", f"must be an object, not {shown(function)}")
        return
    for key in sorted(function.keys() - {"name", "description", "parameters", "strict"}):
        tell(f"function.{key}", "is not known in a tool: it could change the prompt")
    _text(function.get("name"), "function.name", tell)
    if "description" in function:
        _text(function["description"], "function.description", tell)
    if not isinstance(function.get("parameters", {}), dict):
        tell("function.parameters", f"must be an object, not {shown(function['parameters'])}")
    if not isinstance(function.get("strict", False), bool):
        tell("function.strict", f"must be true or false, not {shown(function['strict'])}")


def _text(value: Any, place: str, tell: Reporter) -> bool:
    """Whether `value` is text that can be sent; tells the mistake if not."""
    if not isinstance(value, str):
        tell(place, "is missing" if value is None else f"must be text, not {shown(value)}")
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        tell(place, "holds half a surrogate pair, which is no text")
        return False
    return True
