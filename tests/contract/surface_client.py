"""Talks to /v1/messages and /v1/responses, whose events have names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wire_client import Wire

Json = dict[str, Any]


async def named_events(engine: Wire, path: str, body: Json) -> list[Json]:
    """The data of a stream's events. Each has the name of its type."""
    async with engine.session.post(engine.url + path, json=body | {"stream": True}) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"].split(";")[0] == "text/event-stream"
        text = (await response.read()).decode()
    found = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def of_type(events: list[Json], kind: str) -> list[Json]:
    return [event for event in events if event["type"] == kind]


def prompt_of(usage: Json) -> int:
    """The tokens of a prompt by the usage of a message."""
    parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(name, 0) for name in parts)
