"""Reads scenario files: recorded conversations in OpenAI's chat messages.

A file is a JSON object `{"name", "replay", "tools", "messages"}`, a JSON list of messages, or JSON
lines with one message each. With JSON lines, a first line may hold `name`, `replay` and `tools`.
All errors of a file are reported together, each with its line or index and its field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from exporter.errors import ScenarioError
from exporter.scenario.message_checks import Reporter, check_message, check_tool, shown
from exporter.scenario.model import Message, Scenario, ScenarioKind, Tool

MOST_MESSAGES = 2000
_MOST_REPORTED = 20
_LONGEST_KEY = 100  # characters of a key in an error
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_HEAD = ("name", "replay", "tools")
_REPLAYS = ("recorded", "own")
_IMPORT = " (of logged requests, `scenario import` makes a scenario)"


@dataclass(slots=True)
class _Draft:
    """A file while it is read. `places[k]` is the place of message k, in words."""

    source: str
    errors: list[str] = field(default_factory=list)
    head: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    def at(self, place: str) -> Reporter:
        """Reports errors at `place`: of a field, or of the whole if the field is empty."""

        def report(where: str, what: str) -> None:
            glue = ": " if place.startswith("line ") else "."
            cut = where if len(where) <= _LONGEST_KEY else f"{where[:_LONGEST_KEY]}…"
            full = f"{place}{glue if place and where else ''}{cut}"
            self.errors.append(": ".join(part for part in (self.source, full, what) if part))

        return report


def parse_json(text: str, source: str, name: str) -> ScenarioKind:
    """The scenario in a JSON text. Errors name the file as `source`; `name` is the default name.

    Raises `ScenarioError` with all errors, one per line.
    """
    draft = _Draft(source)
    try:
        whole = _loads(text)
    except ValueError as error:
        raise ScenarioError(f"{source}: {_json_error(error)}") from error
    if isinstance(whole, dict):
        for key in whole.keys() - {*_HEAD, "messages"}:
            draft.at("")(key, f"is not known; known are {', '.join(_HEAD)}, messages{_IMPORT}")
        draft.errors.sort()
        draft.head = {key: whole[key] for key in _HEAD if key in whole}
        whole = whole.get("messages")
    if not isinstance(whole, list):
        draft.at("")("messages", f"must be a list of messages, not {shown(whole)}")
        whole = []
    elif not whole:
        draft.at("")("messages", "must not be empty")
    draft.messages = whole
    draft.places = [f"messages[{index}]" for index in range(len(whole))]
    return _kind(draft, name)


def parse_lines(text: str, source: str, name: str) -> ScenarioKind:
    """Like `parse_json`, for JSON lines. Empty lines are skipped."""
    draft = _Draft(source)
    first = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        report = draft.at(f"line {number}")
        try:
            value = _loads(line)
        except ValueError as error:
            report("", _json_error(error, lines=False))
            first = False
            continue
        if first and isinstance(value, dict) and "role" not in value:
            for key in sorted(value.keys() - {*_HEAD}):
                report(
                    f" {key}",
                    f"is not known in a line without role; known are {', '.join(_HEAD)}{_IMPORT}",
                )
            draft.head = {key: value[key] for key in _HEAD if key in value}
        else:
            draft.messages.append(value)
            draft.places.append(f"line {number}")
        first = False
    if not draft.messages and not draft.errors:
        draft.at("")("", "has no messages")
    return _kind(draft, name)


def _kind(draft: _Draft, default_name: str) -> ScenarioKind:
    report = draft.at("")
    name = draft.head.get("name", default_name)
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        report(
            "name",
            'must be 1 to 64 letters, digits, "_", "." or "-", because it becomes a label value, '
            f"not {shown(name)}",
        )
    replay = draft.head.get("replay")
    if "replay" in draft.head and replay not in _REPLAYS:
        report("replay", f'must be "recorded" or "own", not {shown(replay)}')
    tools = _tools(draft)
    messages = _messages(draft)
    if draft.errors:
        _refuse(draft)
    return _checked(draft, str(name), replay, tools, messages)


def _refuse(draft: _Draft) -> NoReturn:
    reported = draft.errors[:_MOST_REPORTED]
    if len(draft.errors) > len(reported):
        reported.append(f"{draft.source}: and {len(draft.errors) - len(reported)} more")
    raise ScenarioError("\n".join(reported))


def _tools(draft: _Draft) -> tuple[Tool, ...]:
    tools = draft.head.get("tools", [])
    if not isinstance(tools, list):
        draft.at("")("tools", f"must be a list, not {shown(tools)}")
        return ()
    for index, tool in enumerate(tools):
        check_tool(tool, draft.at(f"tools[{index}]"))
    return tuple(tools)


def _messages(draft: _Draft) -> list[Message]:
    if len(draft.messages) > MOST_MESSAGES:
        what = f"{len(draft.messages)} messages are more than {MOST_MESSAGES}"
        draft.at("")("", what)
        return []
    open_calls: set[str] = set()
    checked: list[Message] = []
    before: object = None
    for message, place in zip(draft.messages, draft.places, strict=True):
        report = draft.at(place)
        found = check_message(message, report, open_calls)
        role = found.get("role")
        if role == "assistant" and not checked:
            report(
                "role", "the first message must not be the assistant's: it has nothing to answer"
            )
        if role == "assistant" and before == "assistant":
            report(
                "role",
                "an assistant's message must not follow another without a message between them",
            )
        checked.append(found)
        before = role
    return checked


def _checked(
    draft: _Draft, name: str, replay: Any, tools: tuple[Tool, ...], messages: list[Message]
) -> ScenarioKind:
    """The scenario of messages that were checked one by one."""
    results = [index for index, message in enumerate(messages) if message["role"] == "tool"]
    if replay is None:
        recorded = bool(results) or any(message.get("tool_calls") for message in messages)
    else:
        recorded = replay == "recorded"
    if results and not recorded:
        draft.at(draft.places[results[0]])(
            "role",
            'a tool result must follow its recorded call: set replay to "recorded" or leave it out',
        )
        _refuse(draft)
    scenario = Scenario(name, tools, _steps(messages, recorded=recorded), recorded=recorded)
    if len(scenario.steps) < 2:  # noqa: PLR2004 - a hit needs a turn before it
        draft.at("")("messages", "have only one turn: a cache hit needs a turn before it")
        _refuse(draft)
    return ScenarioKind(name, lambda _padding: scenario, padded=False)


def _steps(messages: list[Message], *, recorded: bool) -> tuple[tuple[Message, ...], ...]:
    """The steps: a request ends at each assistant's message, and after messages at the end."""
    steps: list[tuple[Message, ...]] = []
    step: list[Message] = []
    for message in messages:
        if message["role"] != "assistant":
            step.append(message)
            continue
        steps.append(tuple(step))
        step = [message] if recorded else []
    if messages[-1]["role"] != "assistant":
        steps.append(tuple(step))
    return tuple(steps)


def _loads(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"has {word}, which JSON does not know")


def _json_error(error: ValueError, *, lines: bool = True) -> str:
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, " if lines else ""
        return f"{place}column {error.colno}: is not JSON: {error.msg}"
    return str(error)
