"""One request to an engine, and how long it may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.engine.wire.answer import Json

    Objects = Sequence[Mapping[str, Any]]


OPTIONAL_FIELDS = frozenset({"cache_salt", "return_token_ids", "stream_options"})
"""What a request can do without: a server that refuses one of these fields is sent the rest.

Logprobs are not among them: probe/token_ids.py asks for them only where they are needed.
"""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each part of one request may take, in seconds."""

    connect: float = 5.0
    first_token: float = 60.0
    between_tokens: float = 30.0
    whole: float = 120.0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One streamed chat completion at temperature 0.

    `cache_salt` keeps the prefix apart from every other salt's; None sends none. `tools` go into
    the prompt (vLLM up to 0.9.2 leaves them out), but the model is told to call none
    (`tool_choice` "none"), since "auto" is refused by a server without a tool parser. `logprobs`
    asks for those of the answer's tokens, which vLLM names by their ids then.
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
