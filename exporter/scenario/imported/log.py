"""Finds the requests in a log: request bodies, and the records of proxies and tracers around them.

The bodies are those of OpenAI's chat completions or of Anthropic's messages, both of which vLLM
serves. The records are those of vLLM's and OpenAI's batch files, LiteLLM and Langfuse, or any that
name their parts alike. A part that is JSON in a string is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BODIES = (
    "body",
    "request",
    "request_body",
    "proxy_server_request",
    "input",
    "kwargs",
    "data",
    "attributes",
)
"""Where a record has its request, in this order."""
_ANSWERS = ("response", "output", "response_body", "completion")
_PARAMETERS = ("model_parameters", "modelParameters", "optional_params")
_DEEPEST = 6
"""Objects and lists within each other that are looked through for a request or an answer."""
_KEPT = {"messages", "tools", "system"}
_UNCHANGED = {"model", "stream", "stream_options"}
"""Keys of a request that do not change its prompt."""
_SETTINGS = {
    "chat_template",
    "chat_template_kwargs",
    "documents",
    "max_completion_tokens",
    "max_tokens",
    "response_format",
    "temperature",
    "tool_choice",
}
"""Keys of a request, to tell them from those of the record that it lies in."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request of a log, as it was found. `answer` is the message that answered it.

    `place` names it for messages, and `left_out` are its other keys.
    """

    place: str
    messages: list[Any]
    tools: list[Any]
    answer: Any
    left_out: tuple[str, ...]


def requests_of(text: str, source: str) -> list[LoggedRequest]:
    """All requests of a log, in its order: of one JSON value, or of JSON lines.

    Raises `ScenarioError` if there are none, or if a line is no JSON.
    """
    found = [
        request
        for place, value in _records(text, source)
        if (request := _request(value, place)) is not None
    ]
    if not found:
        raise ScenarioError(
            f"{source}: has no request: no record has a list of messages, not in one of "
            f"{', '.join(_BODIES)} either"
        )
    return found


def _records(text: str, source: str) -> Iterator[tuple[str, Any]]:
    whole = _json(text)
    if whole is not None:
        records = whole if isinstance(whole, list) and not _are_messages(whole) else [whole]
        for number, each in enumerate(records, start=1):
            yield ("" if len(records) == 1 else f"record {number}"), each
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    values = [(number, _json(line)) for number, line in lines]
    for number, value in values:
        if value is None:
            raise ScenarioError(
                f"{source}: line {number} is not JSON. A log of vLLM holds prompts as text, "
                "not messages: log the requests where they are sent, or in a proxy."
            )
    if all(isinstance(value, dict) and "role" in value for _, value in values):
        yield "", [value for _, value in values]  # one message a line
        return
    for number, value in values:
        yield f"line {number}", value


def _request(record: Any, place: str) -> LoggedRequest | None:
    if _are_messages(record):
        return LoggedRequest(place, record, [], None, ())
    body = _body(record, _DEEPEST)
    if body is None:
        return None
    around = record if isinstance(record, dict) else {}
    messages = _json_or_same(body["messages"])
    if isinstance(body.get("system"), str | list):  # Anthropic's
        messages = [{"role": "system", "content": body["system"]}, *messages]
    tools = _json_or_same(body.get("tools")) or _parameter(around, "tools") or []
    bare = body is record and not any(key in record for key in _ANSWERS)
    known = body.keys() if bare or body is not record else body.keys() & _SETTINGS
    left_out = tuple(sorted(known - _KEPT - _UNCHANGED))
    answer = _answer(around)
    return LoggedRequest(
        place, messages, tools if isinstance(tools, list) else [], answer, left_out
    )


def _body(value: Any, deepest: int) -> Mapping[str, Any] | None:
    value = _json_or_same(value)
    if _are_messages(value):
        return {"messages": value}
    if not isinstance(value, dict) or deepest == 0:
        return None
    if _are_messages(_json_or_same(value.get("messages"))):
        return value
    return next(
        (found for key in _BODIES if (found := _body(value.get(key), deepest - 1)) is not None),
        None,
    )


def _answer(record: Mapping[str, Any]) -> Any:
    """The message that a record's response holds; None if there is none."""
    found = next((record[key] for key in _ANSWERS if record.get(key)), None)
    return _message(_json_or_same(found), _DEEPEST)


def _message(value: Any, deepest: int) -> Any:
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    if isinstance(value, list):
        return _message(value[0], deepest - 1) if value and deepest else None
    if not isinstance(value, dict) or deepest == 0:
        return None
    if value.get("role") == "assistant":
        return value
    parts = (value.get(key) for key in ("body", "choices", "message", "output"))
    return next((found for part in parts if (found := _message(part, deepest - 1))), None)


def _parameter(record: Mapping[str, Any], name: str) -> Any:
    groups = (_json_or_same(record.get(key)) for key in _PARAMETERS)
    found = (_json_or_same(group.get(name)) for group in groups if isinstance(group, dict))
    return next((value for value in found if value), None)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and "role" in each for each in value)
    )


def _json_or_same(value: Any) -> Any:
    """A value; of a string that holds a JSON list or object, what it holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        found = _json(value)
        return value if found is None else found
    return value


def _json(text: str) -> Any:
    """What a JSON text holds; None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
