"""One request to an engine, and how long it may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.model.engine import Rank

    Objects = Sequence[Mapping[str, Any]]


OPTIONAL_FIELDS = frozenset(
    {"cache_salt", "return_token_ids", "stream_options", "enable_response_messages"}
)
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


RANK_HEADER = "X-data-parallel-rank"
"""Selects the rank. vLLM reads it since 0.11, but up to 0.13 its chat route drops it again
(`OpenAIServingChat.create_chat_completion` and `_process_inputs`). A number beyond the ranks is an
error 400 (`v1/engine/input_processor.py`); text that is no number is ignored."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The session and the turn (1…) that a request belongs to, and the rank that must run it.

    Requests that must meet the same cache have the same `session`. vLLM chooses a rank where `rank`
    is None.
    """

    session: str
    turn: int = 1
    rank: Rank | None = None

    def headers(self) -> dict[str, str]:
        """The headers that send a request to its rank."""
        return {} if self.rank is None else {RANK_HEADER: str(self.rank.index)}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One streamed chat at temperature 0, whatever API carries it (surfaces/).

    `cache_salt` separates the cached prefix from those of all other salts; None sends none. `tools`
    go into the prompt (not in vLLM up to 0.9.2), but with `tool_choice` "none", because a server
    without a tool parser refuses "auto". `logprobs` asks for the logprobs of the answer, in which
    vLLM then names tokens by their ids. `context` is None outside of a session.
    """

    model: str
    messages: Objects = field(repr=False)
    max_tokens: int
    cache_salt: str | None = field(default=None, repr=False)
    tools: Objects = field(default=(), repr=False)
    logprobs: bool = False
    context: RequestContext | None = None

    def headers(self) -> dict[str, str]:
        """Those of this request alone."""
        return {} if self.context is None else self.context.headers()
