"""Finds the conversations in a log, and makes a scenario of one.

An agent sends the history so far with each request. So a request continues the one before it if its
messages begin with all of that one's.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.scenario.imported.cleaning import Cleaned, cleaned_tool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.scenario.imported.log import LoggedRequest


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with the places of its first and last request, and its number of requests.

    `changed` counts what was left out or replaced of its messages and tools.
    """

    first: str
    last: str
    requests: int
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]]
    changed: Mapping[str, int]

    @property
    def turns(self) -> int:
        """The requests that its scenario plays."""
        roles = [message["role"] for message in self.messages]
        return roles.count("assistant") + (roles[-1:] not in ([], ["assistant"]))

    def scenario(self, name: str) -> str:
        """The text of its scenario file."""
        lines = ",\n    ".join(json.dumps(one, ensure_ascii=False) for one in self.messages)
        head = {"name": name, "tools": self.tools} if self.tools else {"name": name}
        opening = json.dumps(head, ensure_ascii=False)[1:-1]
        return f'{{\n  {opening},\n  "messages": [\n    {lines}\n  ]\n}}\n'


def conversations(requests: Sequence[LoggedRequest]) -> list[Conversation]:
    """The conversations of a log, in the order of their first requests."""
    chains: list[list[LoggedRequest]] = []
    for request in requests:
        longest = max(
            (chain for chain in chains if _continues(request, chain[-1])),
            key=lambda chain: len(chain[-1].messages),
            default=None,
        )
        if longest is None:
            chains.append([request])
        else:
            longest.append(request)
    return [_conversation(chain) for chain in chains]


def _continues(request: LoggedRequest, before: LoggedRequest) -> bool:
    known = before.messages
    return len(request.messages) >= len(known) and request.messages[: len(known)] == known


def _conversation(chain: Sequence[LoggedRequest]) -> Conversation:
    last = chain[-1]
    cleaned = Cleaned()
    for message in (*last.messages, *([last.answer] if last.answer else [])):
        cleaned.add(message)
    changed = Counter({f"{key} of a request": 1 for one in chain for key in one.left_out})
    changed.update(cleaned.changed)
    tools = [cleaned_tool(tool, changed) for tool in last.tools]
    return Conversation(
        chain[0].place,
        last.place,
        len(chain),
        cleaned.messages,
        [tool for tool in tools if tool is not None],
        changed,
    )
