"""Reads a recording: JSON lines, one JSON list, or a HAR file.

A line that is no request is counted, with the reason, and the others are used.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporter.errors import RecordingError
from exporter.model.recorded import Api, Message, RecordedRequest, Skipped, Tool
from exporter.recording.answers import StreamedAnswer
from exporter.recording.messages import (
    dumped,
    items_of,
    message_of,
    raw_answer_of,
    system_of,
    tool_of,
    usage_of,
)
from exporter.recording.traces import is_traced, traced_request
from exporter.recording.wrapped import api_told, parsed, refusal, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.recording.wrapped import Wrapped

MOST_LINE_BYTES = 256 << 20
"""Of one line, and of a file that is one JSON value."""
_SETTINGS = (
    *("chat_template", "chat_template_kwargs", "documents", "reasoning_effort", "reasoning"),
    *("thinking", "add_generation_prompt", "continue_final_message", "add_special_tokens"),
    "mm_processor_kwargs",
)
"""Fields of a request beside messages and tools that change its prompt."""


@dataclass(slots=True)
class Recording:
    """The requests of a file, in its order, and what was not used of it."""

    source: str
    requests: list[RecordedRequest] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def read_recording(lines: Iterable[bytes], source: str) -> Recording:
    """All requests of a file. Raises `RecordingError` if it has none.

    Equal messages of different requests are one object, so memory grows with what is new in each.
    """
    recording, shared = Recording(source), _Shared()
    for place, value in _records(lines, recording):
        if is_traced(value):
            _add_traced(recording, value, place)
            continue
        wrapped, status = unwrapped(value), refusal(value)
        if wrapped is not None and status is not None:
            recording.skipped.append(Skipped(place, f"was refused (status {status})"))
        elif wrapped is None:
            recording.skipped.append(Skipped(place, "has no messages and no input"))
        elif wrapped.body.get("previous_response_id"):
            reason = "continues a conversation that only the server has (previous_response_id)"
            recording.skipped.append(Skipped(place, reason))
        else:
            recording.requests.append(shared.request(wrapped, place))
    if not recording.requests:
        first = next(iter(recording.skipped), None)
        why = f"{first.place} {first.reason}" if first else "it is empty"
        raise RecordingError(
            f"{source}: has no request of /v1/chat/completions, /v1/messages or /v1/responses: "
            f"{why}"
        )
    _sort(recording.requests)
    return recording


def _sort(requests: list[RecordedRequest]) -> None:
    """Put requests in the order of their times if all are known. Some logs have the latest first,
    and a proxy writes a request when its answer ends.
    """
    if all(one.time is not None for one in requests):
        requests.sort(key=lambda one: one.time or 0.0)


def _add_traced(recording: Recording, value: Any, place: str) -> None:
    try:
        recording.requests.append(traced_request(value, place))
    except RecordingError as error:
        recording.skipped.append(Skipped(place, str(error)))


def _records(lines: Iterable[bytes], recording: Recording) -> Iterator[tuple[str, Any]]:
    """The places and values of all records. Lines that are no JSON are counted as skipped."""
    rest = iter(enumerate(lines, start=1))
    for number, line in rest:
        if not line.strip():
            continue
        value = _checked(line, number, recording)
        if value is None and not recording.requests and not line.strip(b"[{ \t\r\n"):
            # One JSON value over many lines: the first has only brackets.
            head = b"\n" * (number - 1) + line
            yield from _whole(head, rest, recording)
            return
        if value is None:
            if len(line) <= MOST_LINE_BYTES:
                recording.skipped.append(Skipped(f"line {number}", "is not JSON"))
        elif (entries := _entries(value)) is not None:
            yield from entries
        else:
            yield f"line {number}", value


def _checked(line: bytes, number: int, recording: Recording) -> Any:
    if len(line) > MOST_LINE_BYTES:
        reason = f"is longer than {MOST_LINE_BYTES >> 20} MiB"
        recording.skipped.append(Skipped(f"line {number}", reason))
        return None
    return parsed(line)


def _whole(
    head: bytes, rest: Iterator[tuple[int, bytes]], recording: Recording
) -> Iterator[tuple[str, Any]]:
    """The records of a file that is one JSON value; if it is none, those of its lines."""
    read, size = [head], len(head)
    for _, line in rest:
        size += len(line)
        if size > MOST_LINE_BYTES:
            raise RecordingError(
                f"{recording.source}: is one JSON value of more than {MOST_LINE_BYTES >> 20} MiB; "
                "write one request a line"
            )
        read.append(line)
    value = parsed(b"".join(read))
    entries = None if value is None else _entries(value)
    if entries is not None:
        yield from entries
        return
    if value is not None:
        yield "the file", value
        return
    for number, line in enumerate(b"".join(read).split(b"\n"), start=1):
        if line.strip() and (one := parsed(line)) is not None:
            yield f"line {number}", one
        elif line.strip():
            recording.skipped.append(Skipped(f"line {number}", "is not JSON"))


def _entries(value: Any) -> list[tuple[str, Any]] | None:
    """The records of a list or a HAR file; None if the value is one record."""
    log = value.get("log") if isinstance(value, dict) else None
    if isinstance(log, dict) and isinstance(log.get("entries"), list):
        return [(f"entry {n}", _of_har(each)) for n, each in enumerate(log["entries"], start=1)]
    if isinstance(value, list) and not (value and _is_message(value[0])):
        return [(f"record {number}", each) for number, each in enumerate(value, start=1)]
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value


def _of_har(entry: Any) -> Any:
    """An entry with its answer and its status in place of the response."""
    response = entry.get("response") if isinstance(entry, dict) else None
    if not isinstance(response, dict):
        return entry
    answer = _answer_of_har(response.get("content"), api_told(entry))
    return {**entry, "response": answer, "status": response.get("status")}


def _answer_of_har(content: Any, api: Api | None) -> Any:
    text = content.get("text") if isinstance(content, dict) else None
    if not isinstance(text, str):
        return None
    given = text.encode()
    if content.get("encoding") == "base64":
        try:
            given = base64.b64decode(given)
        except ValueError:
            return None
    if api is None or not str(content.get("mimeType")).startswith("text/event-stream"):
        return parsed(given)
    answer = StreamedAnswer(api)
    answer.feed(given)
    return answer.response()


class _Shared:
    """Makes requests whose equal messages and tools are the same objects."""

    def __init__(self) -> None:
        self._messages: dict[tuple[Api, str], tuple[Any, Message]] = {}
        self._tools: dict[str, tuple[list[Any], tuple[Tool, ...]]] = {}

    def request(self, wrapped: Wrapped, place: str) -> RecordedRequest:
        api, body = wrapped.api, dict(wrapped.body)
        pairs = [self._message(raw, api) for raw in items_of(body, api)]
        key = "input" if api is Api.RESPONSES else "messages"
        if isinstance(body.get(key), list):
            body[key] = [raw for raw, _ in pairs]
        body, tools = self._with_tools(body)
        system = body.get({Api.MESSAGES: "system", Api.RESPONSES: "instructions"}.get(api, ""))
        first = system_of(system)
        # With n > 1 it is not known which answer the next request goes on with.
        answer = () if (body.get("n") or 1) != 1 else raw_answer_of(wrapped.response)
        return RecordedRequest(
            place=place,
            api=api,
            body=body,
            model=str(body.get("model") or ""),
            salt=str(body["cache_salt"]) if body.get("cache_salt") else None,
            settings=tuple((key, dumped(body[key])) for key in _SETTINGS if body.get(key)),
            tools=tools,
            messages=(*(() if first is None else (first,)), *(one for _, one in pairs)),
            answer=tuple(message_of(raw) for raw in answer),
            raw_answer=answer,
            usage=usage_of(wrapped.response),
            time=wrapped.time,
        )

    def _message(self, raw: Any, api: Api) -> tuple[Any, Message]:
        key = (api, dumped(raw))
        if key not in self._messages:
            self._messages[key] = (raw, message_of(raw))
        return self._messages[key]

    def _with_tools(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Tool, ...]]:
        raw = body.get("tools")
        if not isinstance(raw, list) or not raw:
            return dict(body), ()
        key = dumped(raw)
        if key not in self._tools:
            self._tools[key] = (raw, tuple(map(tool_of, raw)))
        kept, tools = self._tools[key]
        return {**body, "tools": kept}, tools
