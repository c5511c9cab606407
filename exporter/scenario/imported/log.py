"""Finds the requests in a log: request bodies, and the records of proxies and tracers around them.

The bodies are those of the three APIs that vLLM serves. The records are those of vLLM's and
OpenAI's batch files, LiteLLM and Langfuse, or any that name their parts alike. A part that is JSON
in a string is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.errors import ScenarioError
from exporter.model.recorded import Api
from exporter.recording.as_chat import as_chat
from exporter.recording.messages import raw_answer_of
from exporter.recording.wrapped import BODIES, are_messages, parsed, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT = {"messages", "tools", "system", "input", "instructions"}
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
            f"{', '.join(BODIES)} either"
        )
    return found


def _records(text: str, source: str) -> Iterator[tuple[str, Any]]:
    whole = parsed(text)
    if whole is not None:
        records = whole if isinstance(whole, list) and not are_messages(whole) else [whole]
        for number, each in enumerate(records, start=1):
            yield ("" if len(records) == 1 else f"record {number}"), each
        return
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    values = [(number, parsed(line)) for number, line in lines]
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
    found = unwrapped(record)
    if found is None:
        return None
    body, response = found.body, found.response
    if found.api is Api.RESPONSES:
        messages = as_chat(body, found.api)["messages"]
    else:
        messages = body["messages"]
        if isinstance(body.get("system"), str | list):  # Anthropic's
            messages = [{"role": "system", "content": body["system"]}, *messages]
    tools = body.get("tools")
    bare = found.bare and response is None
    known = body.keys() if bare or not found.bare else body.keys() & _SETTINGS
    left_out = tuple(sorted(known - _KEPT - _UNCHANGED))
    answer = next(iter(raw_answer_of(response)), None)
    return LoggedRequest(
        place, messages, tools if isinstance(tools, list) else [], answer, left_out
    )
