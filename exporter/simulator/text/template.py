"""Chat templates turn messages and tools into the text of the prompt.

The good template is ChatML: old messages stay unchanged, so each turn's prompt starts with the
turn before. The bad template does what some released ones do: it puts the system prompt and the
tools into the *last* user message, so every turn rewrites the history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exporter.errors import ExporterError

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


NONE_GIVEN = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a"
    " chat template if the tokenizer does not define one."
)


class RefusedError(ExporterError):
    """The template refuses the messages; the text is the template's."""


def render(
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    *,
    generation_prompt: bool = True,
    moving_system_prompt: bool = False,
    system_role: bool = True,
    head: str = "",
    thinking: bool = True,
) -> str:
    """The prompt as text. It starts with `head`. Without `thinking` (the variable `enable_thinking`
    of a template, as Qwen3's) it ends with reasoning that is empty.
    """
    if not system_role and any(message.get("role") == "system" for message in messages):
        raise RefusedError("System role not supported")
    head += _head(messages, tools)
    rest = messages[1:] if messages and messages[0].get("role") == "system" else messages
    if moving_system_prompt:
        body = _with_head_in_last_user_message(head, rest)
    else:
        body = (_turn("system", head) if head else "") + "".join(map(_message, rest))
    answer = "<|im_start|>assistant\n" + ("" if thinking else "<think>\n\n</think>\n\n")
    return body + (answer if generation_prompt else "")


def tool_call_text(name: str, arguments: object) -> str:
    """A tool call as the model writes it; the history of later turns repeats it."""
    return f"<tool_call>{_dump({'name': name, 'arguments': arguments})}</tool_call>"


def _head(messages: Sequence[Message], tools: Sequence[Tool] | None) -> str:
    parts = []
    if messages and messages[0].get("role") == "system":
        parts.append(content_text(messages[0].get("content")))
    if tools:
        parts.append("# Tools\n" + "\n".join(map(_dump, tools)))
    return "\n\n".join(parts)


def _with_head_in_last_user_message(head: str, rest: Sequence[Message]) -> str:
    users = [place for place, message in enumerate(rest) if message.get("role") == "user"]
    if not users:
        return _turn("system", head) + "".join(map(_message, rest))
    last = users[-1]
    moved = _turn("user", f"{head}\n\n{content_text(rest[last].get('content'))}")
    return "".join(map(_message, rest[:last])) + moved + "".join(map(_message, rest[last + 1 :]))


def _message(message: Message) -> str:
    text = content_text(message.get("content"))
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        text += tool_call_text(function.get("name", ""), _parsed(function.get("arguments")))
    return _turn(str(message.get("role")), text)


def _turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def content_text(content: object) -> str:
    """A message's content as text. The content can be a string, null, or a list of text parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)


def _parsed(arguments: object) -> object:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except json.JSONDecodeError:
        return arguments


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
