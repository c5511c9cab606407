"""A request of /v1/messages or /v1/responses as the chat request that vLLM makes of it.

By `AnthropicServingMessages.to_chat_completion_request` (`vllm/entrypoints/anthropic/serving.py`)
and `construct_input_messages` (`vllm/entrypoints/openai/responses/utils.py`) of vLLM 0.32.0. An
engine shows the prompt of other requests than chat only with `--enable-scale-out`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from exporter.model.recorded import Api
from exporter.recording.wrapped import objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_BILLING = "x-anthropic-billing-header"
_KEPT = ("model", "chat_template", "chat_template_kwargs", "documents", "reasoning_effort")
Json = dict[str, Any]


def as_chat(body: Mapping[str, Any], api: Api) -> Json:
    """The body of a chat request with the same prompt."""
    if api is Api.CHAT:
        return dict(body)
    chat = {key: body[key] for key in _KEPT if body.get(key)}
    effort = _effort(body)
    if effort:
        chat["reasoning_effort"] = effort
    made = _of_messages(body) if api is Api.MESSAGES else _of_items(body)
    tools = body.get("tools")
    if tools:
        chat["tools"] = [_tool(tool) for tool in tools]
    return {**chat, "messages": list(made)}


def _effort(body: Mapping[str, Any]) -> Any:
    thinking, output = body.get("thinking"), body.get("output_config") or body.get("reasoning")
    if isinstance(output, dict) and output.get("effort"):
        return output["effort"]
    disabled = isinstance(thinking, dict) and thinking.get("type") == "disabled"
    return "none" if disabled else None


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    parameters = tool.get("parameters", tool.get("input_schema"))
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": parameters,
    }
    return {"type": "function", "function": function}


# /v1/messages


def _of_messages(body: Mapping[str, Any]) -> Iterator[Json]:
    system = _system_text(body.get("system"))
    if system:
        yield {"role": "system", "content": system}
    for message in body["messages"]:
        content = message.get("content")
        if message.get("role") == "system":
            if text := _system_text(content):
                yield {"role": "system", "content": text}
        elif isinstance(content, str):
            yield {"role": message.get("role"), "content": content}
        else:
            yield from _of_blocks(str(message.get("role")), objects(content))


def _system_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    texts = (str(block.get("text") or "") for block in objects(value))
    return "".join(text for text in texts if not text.startswith(_BILLING))


def _of_blocks(role: str, blocks: Sequence[Json]) -> Iterator[Json]:
    """The messages of one message: results of tools come before what else it says."""
    parts: list[Json] = []
    calls: list[Json] = []
    reasoning = ""
    for block in blocks:
        kind = block.get("type")
        if kind == "text" and block.get("text"):
            parts.append({"type": "text", "text": block["text"]})
        elif kind == "thinking":
            reasoning += str(block.get("thinking") or "")
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {})
            calls.append(_call(block.get("id"), block.get("name"), arguments))
        elif kind == "tool_result" and role == "user":
            yield {
                "role": "tool",
                "tool_call_id": block.get("tool_use_id") or "",
                "content": _result_text(block.get("content")),
            }
    made: Json = {"role": role}
    if reasoning:
        made["reasoning"] = reasoning
    if calls:
        made["tool_calls"] = calls
    if parts:
        made["content"] = parts[0]["text"] if len(parts) == 1 else parts
    if "content" in made or role != "user":
        yield made


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (part for part in objects(content) if part.get("type") == "text")
    return "\n".join(str(part.get("text") or "") for part in parts)


def _call(identity: Any, name: Any, arguments: str) -> Json:
    function = {"name": name or "", "arguments": arguments}
    return {"id": identity or "call_0", "type": "function", "function": function}


# /v1/responses


def _of_items(body: Mapping[str, Any]) -> list[Json]:
    made: list[Json] = []
    if body.get("instructions"):
        made.append({"role": "system", "content": body["instructions"]})
    given = body.get("input")
    if isinstance(given, str):
        return [*made, {"role": "user", "content": given}]
    for item in objects(given):
        _add_item(made, item)
    return made


def _add_item(made: list[Json], item: Any) -> None:
    """Add an item: to the answer before it where it is a part of the same answer."""
    kind = item.get("type")
    before = made[-1] if made and made[-1]["role"] == "assistant" else None
    if kind == "function_call":
        call = _call(item.get("call_id"), item.get("name"), item.get("arguments") or "")
        if before is None:
            made.append({"role": "assistant", "tool_calls": [call]})
        else:
            before.setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        result = {"role": "tool", "content": item.get("output")}
        made.append({**result, "tool_call_id": item.get("call_id")})
    elif kind == "reasoning":
        _add_to_answer(made, before, "reasoning", _first_text(item))
    elif item.get("role") == "assistant":
        _add_to_answer(made, before, "content", _first_text(item))
    else:
        made.append({key: value for key, value in item.items() if key in {"role", "content"}})


def _add_to_answer(made: list[Json], before: Json | None, key: str, text: str) -> None:
    if before is not None and before.get(key) is None:
        before[key] = text
    else:
        made.append({"role": "assistant", key: text})


def _first_text(item: Mapping[str, Any]) -> str:
    content = item.get("content") or item.get("summary") or ""
    first = content[0] if isinstance(content, list) else {"text": content}
    return str(first.get("text") or "") if isinstance(first, dict) else str(first)
