"""Recordings of an agent that changes one thing between its requests."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Change = Callable[[int, Json], None]
_WORDS = [
    "search",
    "open",
    "build",
    "test",
    "result",
    "value",
    "token",
    "cache",
    "prefix",
    "answer",
    "question",
    "please",
    "agent",
    "code",
    "line",
    "read",
    "write",
    "folder",
    "branch",
    "commit",
    "review",
    "plan",
    "deploy",
    "server",
    "metric",
    "graph",
    "alert",
    "restart",
    "config",
    "secret",
    "header",
    "stream",
    "window",
    "layer",
    "block",
    "memory",
    "kernel",
    "socket",
    "thread",
    "worker",
    "queue",
]


class Agent:
    """Makes requests of chat completions with answers. Its texts are the same for equal seeds."""

    def __init__(self, seed: int = 1, model: str = "tiny") -> None:
        self._random = random.Random(seed)
        self._model = model
        self._tools = [self._tool(name) for name in ("find", "open_file", "run", "edit")]
        self._system = f"You are an agent.\nNow: 2026-11-28 10:00:01\n{self.text(120)}"

    def begun_like(self, other: Agent) -> Agent:
        """The same agent with the system prompt and the tools of the other one."""
        self._system, self._tools = other._system, other._tools
        return self

    def text(self, words: int) -> str:
        return " ".join(self._random.choice(_WORDS) for _ in range(words))

    def opening(self) -> list[Json]:
        """The system prompt and the first question."""
        return [
            {"role": "system", "content": self._system},
            {"role": "user", "content": self.text(40)},
        ]

    def body(self) -> Json:
        """A request without messages."""
        return {"model": self._model, "tools": copy.deepcopy(self._tools)}

    def _tool(self, name: str) -> Json:
        properties = {"path": {"type": "string"}, "limit": {"type": "integer"}}
        parameters = {"type": "object", "properties": properties}
        function = {"name": name, "description": self.text(25), "parameters": parameters}
        return {"type": "function", "function": function}

    def requests(
        self, count: int, change: Change = lambda _number, _body: None, *, reasoning: bool = False
    ) -> list[Json]:
        """The records of a conversation; `change` edits the body of each request (0…)."""
        history = self.opening()
        records = []
        for number in range(count):
            if number:
                history.append({"role": "user", "content": self.text(40)})
            body = {**self.body(), "messages": copy.deepcopy(history)}
            change(number, body)
            answer: Json = {"role": "assistant", "content": self.text(30)}
            history.append(dict(answer))
            if reasoning:
                answer["reasoning_content"] = self.text(40)
            records.append({"request": body, "response": {"choices": [{"message": answer}]}})
        return records


def system(edit: Callable[[int, str], str]) -> Change:
    """Edits the system prompt."""

    def change(number: int, body: Json) -> None:
        body["messages"][0]["content"] = edit(number, body["messages"][0]["content"])

    return change


def _keys(number: int, body: Json) -> None:
    for tool in body["tools"] if number % 2 else ():
        function = tool["function"]
        function["parameters"] = dict(reversed(function["parameters"].items()))


def _truncated(number: int, body: Json) -> None:
    if number > 1:
        body["messages"] = [body["messages"][0], *body["messages"][-3:]]


def _compacted(number: int, body: Json) -> None:
    if number > 2:
        summary = {"role": "user", "content": "Summary: all went well, and the plan is made."}
        body["messages"] = [body["messages"][0], summary, *body["messages"][-3:]]


def _edited(number: int, body: Json) -> None:
    if number > 1:
        body["messages"][1]["content"] += " [seen]"


def _now(text: str) -> Change:
    return system(lambda number, old: old.replace("2026-11-28 10:00:01", text.format(number)))


CHANGES: dict[str, Change] = {
    "time": _now("2026-11-28 10:0{}:07"),
    "date": _now("2026-11-1{}"),
    "id": _now("run_7f{0}c2a{0}b"),
    "counter": _now("{} of 90"),
    "billing_line": system(lambda number, old: f"attribution: cch={number}f88a;\n{old}"),
    "tools_added": lambda number, body: body.update(tools=body["tools"][: 2 + number]),
    "tools_removed": lambda number, body: body.update(tools=body["tools"][: 4 - number]),
    "tools_reordered": lambda number, body: body["tools"].sort(
        key=lambda tool: hash((number, len(tool["function"]["description"])))
    ),
    "keys_reordered": _keys,
    "whitespace": system(lambda number, old: old.replace("agent.", "agent." + " " * number)),
    "history_truncated": _truncated,
    "history_compacted": _compacted,
    "text_edited": _edited,
}
"""Each reason that a change of the body has, and the change. The reasons of answers are not here."""


def lines(records: list[Json]) -> list[bytes]:
    return [json.dumps(record).encode() + b"\n" for record in records]
