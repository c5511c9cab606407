"""One request to an engine, and how long it may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.engine.wire.answer import Json

    Objects = Sequence[Mapping[str, Any]]


OPTIONAL_FIELDS = frozenset({"cache_salt", "return_token_ids", "stream_options"})
"""Fields that a request can do without: if a server refuses one, the request is sent without it.

`logprobs` is not among them, because token_ids.py of the probe asks for it only if needed.
"""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The longest time for each part of one request, in seconds."""

    connect: float = 5.0
    first_token: float = 60.0
    between_tokens: float = 30.0
    whole: float = 120.0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One streamed chat completion at temperature 0.

    `cache_salt` separates the cached prefix from those of all other salts; None sends none. `tools`
    go into the prompt (not in vLLM up to 0.9.2), but with `tool_choice` "none", because a server
    without a tool parser refuses "auto". `logprobs` asks for the logprobs of the answer, in which
    vLLM then names tokens by their ids.
    """

    model: str
    messages: Objects = field(repr=False)
    max_tokens: int
    cache_salt: str | None = field(default=None, repr=False)
    tools: Objects = field(default=(), repr=False)
    logprobs: bool = False

    def body(self) -> Json:
        """The JSON object to send."""
        body: Json = {
            "model": self.model,
            "messages": list(self.messages),
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        if self.cache_salt is not None:
            body["cache_salt"] = self.cache_salt
        if self.tools:
            body |= {"tools": list(self.tools), "tool_choice": "none"}
        if self.logprobs:
            body |= {"logprobs": True, "return_tokens_as_token_ids": True}
        return body
