"""Scripted conversations, and what exact-prefix caching can serve of them."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wire_client import Streamed, Wire

_TOPICS = ("parser", "cache", "socket", "queue", "index", "logger", "writer", "reader")

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"unit": {"type": "string", "enum": ["celsius", "kelvin"]}},
                "required": ["unit"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "run_shell",
            "description": "Run a command in the working directory and return what it printed",
            "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}},
        },
    },
]


def opening(words: int) -> list[dict[str, Any]]:
    """A system prompt of about so many words, and a first question."""
    text = " ".join(_TOPICS[place % len(_TOPICS)] for place in range(words))
    return [
        {"role": "system", "content": f"You are an assistant. {text}"},
        {"role": "user", "content": "Turn 1: which of them is used first?"},
    ]


def follow_up(turn: int) -> dict[str, Any]:
    return {"role": "user", "content": f"Turn {turn}: and then, after that " + "next one " * turn}


async def play(
    engine: Wire, turns: int, words: int, *, salt: str | None = None, **changed: Any
) -> list[Streamed]:
    """A conversation whose history holds the engine's real answers."""
    messages = opening(words)
    answers = []
    for turn in range(1, turns + 1):
        if turn > 1:
            messages = [*messages, follow_up(turn)]
        if salt is not None:
            changed = changed | {"cache_salt": salt}
        answer = await engine.stream(messages, **changed)
        messages = [*messages, {"role": "assistant", "content": answer.text}]
        answers.append(answer)
    return answers


class Ideal:
    """cached = floor(min(C, n - 1) / B) * B, over all that was computed before."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._computed: list[list[int]] = []

    def of(self, prompt: Sequence[int]) -> int:
        common = max((_common(prompt, ids) for ids in self._computed), default=0)
        return min(common, len(prompt) - 1) // self._block * self._block

    def add(self, prompt: Sequence[int], completion: Sequence[int]) -> None:
        """The KV of a completion's last token is never computed."""
        self._computed.append([*prompt, *completion[:-1]])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
