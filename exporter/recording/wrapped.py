"""Finds the request, the answer and the time in a record of a proxy, a tracer or a batch file.

The records are those of vLLM's and OpenAI's batch files, HAR, LiteLLM, Langfuse and `capture`, or
any that name their parts alike. A part that is JSON in a string is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from exporter.model.recorded import RECORDED_APIS, Api

if TYPE_CHECKING:
    from collections.abc import Mapping

BODIES = (
    "body",
    "request",
    "request_body",
    "proxy_server_request",
    "postData",
    "text",
    "input",
    "kwargs",
    "data",
    "attributes",
)
"""Where a record has its request, in this order."""
_ANSWERS = ("response", "output", "response_body", "completion")
_PARAMETERS = ("model_parameters", "modelParameters", "optional_params")
_PATHS = ("path", "url", "endpoint", "call_type")
_TIMES = ("time", "startedDateTime", "startTime", "start_time", "timestamp", "created_at")
_STATUSES = ("status", "status_code")
_FIRST_ERROR = 400
_EARLIEST = 1e8
"""Seconds since 1970 of the earliest time; a number below it is no time."""
_DEEPEST = 6
"""Objects and lists within each other that are looked through for a request or an answer."""
_OF_RESPONSES = {
    *("instructions", "max_output_tokens", "previous_response_id", "store", "include"),
    *("reasoning", "text", "truncation", "conversation"),
}
_ITEMS = {"function_call", "function_call_output", "reasoning", "item_reference"}


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A request body and its API, with the response and the time if the record has them.

    `bare`: the record is the body, perhaps with other keys of the record among its own.
    """

    api: Api
    body: Mapping[str, Any]
    response: Any = None
    time: float | None = None
    bare: bool = True


def unwrapped(record: Any) -> Wrapped | None:
    """The request in a record; None if it has none."""
    if are_messages(record):
        return Wrapped(Api.CHAT, {"messages": record})
    around = record if isinstance(record, dict) else {}
    told = api_told(around)
    body = body_in(record, told)
    if body is None:
        return None
    bare = body is record or are_messages(json_or_same(around.get("messages")))
    response = next((around[key] for key in _ANSWERS if around.get(key)), None)
    model = around.get("model")
    if "model" not in body and isinstance(model, str):
        body = {"model": model, **body}
    tools = body.get("tools") or _parameter(around, "tools")
    if tools:
        body = {**body, "tools": json_or_same(tools)}
    return Wrapped(_api(told, body), body, json_or_same(response), _time(around), bare)


def refusal(record: Any) -> str | None:
    """The status with which a request was refused; None if it was not, or no status is known."""
    response = record.get("response") if isinstance(record, dict) else None
    for around in objects([record, response]):
        for status in (around.get(key) for key in _STATUSES):
            if status == "failure" or (isinstance(status, int) and status >= _FIRST_ERROR):
                return str(status)
    return None


def body_in(
    value: Any, told: Api | None = None, deepest: int = _DEEPEST
) -> Mapping[str, Any] | None:
    """The body of a request in a value, however deep; None if there is none.

    `told` is the API that its record names.
    """
    value = json_or_same(value)
    if are_messages(value):
        return {"messages": value}
    if not isinstance(value, dict) or deepest == 0:
        return None
    messages = json_or_same(value.get("messages"))
    if are_messages(messages):
        return value if messages is value["messages"] else {**value, "messages": messages}
    if _has_input(value) and (told is Api.RESPONSES or _is_of_responses(value)):
        return value
    found = (body_in(value.get(key), told, deepest - 1) for key in BODIES)
    return next((one for one in found if one is not None), None)


def _has_input(value: Mapping[str, Any]) -> bool:
    return bool(value.get("input")) and isinstance(value["input"], str | list) and "model" in value


def _is_of_responses(value: Mapping[str, Any]) -> bool:
    types = (str(item.get("type")) for item in objects(value["input"]))
    return bool(_OF_RESPONSES & value.keys()) or any(each in _ITEMS for each in types)


def api_told(around: Mapping[str, Any]) -> Api | None:
    """The API whose path is in a record."""
    request = around.get("request")
    places = (around, request if isinstance(request, dict) else {})
    told = " ".join(str(place.get(key, "")) for place in places for key in _PATHS)
    return next((api for api in RECORDED_APIS if api.value.removeprefix("/v1") in told), None)


def _api(told: Api | None, body: Mapping[str, Any]) -> Api:
    """The API of a body: by the path in its record, or else by its fields."""
    if "messages" not in body:
        return Api.RESPONSES
    if told in {Api.CHAT, Api.MESSAGES}:
        return told
    return Api.MESSAGES if _is_anthropic(body) else Api.CHAT


def _is_anthropic(body: Mapping[str, Any]) -> bool:
    if "system" in body or "anthropic_version" in body:
        return True
    if any("input_schema" in tool for tool in objects(body.get("tools"))):
        return True
    contents = (message.get("content") for message in body["messages"])
    kinds = (part.get("type") for content in contents for part in objects(content))
    return any(kind in ("tool_use", "tool_result", "thinking") for kind in kinds)


def _time(around: Mapping[str, Any]) -> float | None:
    """Seconds since 1970; None if the record has no time that can be read."""
    for key in _TIMES:
        value = around.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > _EARLIEST:
            return value / 1000 if value > _EARLIEST * 1000 else float(value)
        if isinstance(value, str):
            try:
                found = datetime.fromisoformat(value)
            except ValueError:
                continue
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return None


def _parameter(record: Mapping[str, Any], name: str) -> Any:
    groups = (json_or_same(record.get(key)) for key in _PARAMETERS)
    found = (json_or_same(group.get(name)) for group in groups if isinstance(group, dict))
    return next((value for value in found if value), None)


def are_messages(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and "role" in each for each in value)
    )


def json_or_same(value: Any) -> Any:
    """A value; of a string that holds a JSON list or object, what it holds."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        found = parsed(value)
        return value if found is None else found
    return value


def parsed(text: str | bytes) -> Any:
    """What a JSON text holds; None if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none of what is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
