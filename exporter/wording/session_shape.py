"""The JSON shape of a session, as `probe --json` and the HTTP API give it. Pure.

The functions of session_json.py return these types, so that the type checker holds what is written
to them; the API's OpenAPI description is made from them. Unknown is null.
"""

# No `from __future__ import annotations`: pydantic reads these at run time.
from typing import Annotated

from pydantic import ConfigDict, Field, with_config

# Python 3.11's own TypedDict keeps too little for pydantic to read.
from typing_extensions import TypedDict

from exporter.model.chat import CachedTokensSource
from exporter.model.failure import FailureReason
from exporter.model.session import BreakReason, LossCause, Notice

documented = with_config(ConfigDict(use_attribute_docstrings=True))
"""The texts below the keys become descriptions."""

Ratio = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC, as 2026-01-31T12:00:00.000Z."""


@documented
class LossJson(TypedDict):
    """Tokens that exact-prefix caching could have served and the cache did not."""

    tokens: Tokens
    cause: LossCause
    evidence: str


@documented
class TurnJson(TypedDict):
    """One request and its streamed answer."""

    turn: Annotated[int, Field(ge=1)]
    prompt_tokens: Tokens | None
    completion_tokens: Tokens | None
    cached_tokens: Tokens | None
    ideal_cached_tokens: Tokens | None
    """The most that exact-prefix caching could have served."""
    hit_ratio: Ratio | None
    """Cached tokens / prompt tokens."""
    efficiency_ratio: Ratio | None
    """Cached tokens / ideal cached tokens; null where the ideal is 0."""
    tokens_saved: Tokens | None
    ttft_seconds: Seconds | None
    """Time to first token, as the client saw it."""
    latency_seconds: Seconds
    loss: LossJson | None
    cold_ttft_seconds: Seconds | None
    """Of this turn's cold control, where one was sent and was cold."""
    ttft_saved_seconds: float | None
    """Cold minus warm; below 0 where chance outweighs the cache."""
    cached_tokens_source: CachedTokensSource | None
    """What told the cached tokens; null where they are not known."""


@documented
class PrefixBreakJson(TypedDict):
    """Where the prompt of a turn parts from the turn before it."""

    turn: int
    token_index: int
    """From 0, in the earlier prompt and its answer."""
    sequence_tokens: int
    reason: BreakReason
    message: int | None
    """The number (1…) of the message in which it parts."""
    role: str | None


@documented
class PrefixJson(TypedDict):
    """Whether each turn's prompt began with the turn before it."""

    stable: bool
    turns_compared: int
    first_break: PrefixBreakJson | None


@documented
class FailureJson(TypedDict):
    """Why a session did not finish."""

    reason: FailureReason
    detail: str
    turn: int | None
    """The turn that did not finish; null where none had begun."""


@documented
class SessionJson(TypedDict):
    """One played session, finished or not, with every turn that did finish."""

    target: str
    scenario: str
    simulated: bool
    started: Time
    failure: FailureJson | None
    turns: list[TurnJson]
    duration_seconds: Seconds
    model: str | None
    engine_version: str | None
    notices: list[Notice]
    """What a reader of the numbers must know."""
    prefix: PrefixJson | None
    """Null where token ids are not known."""
    extra_tokens: Tokens
    """Prompt and completion tokens of requests beside the turns."""
    nonce_in_prompt: bool
    """The engine ignores cache_salt, so the first message began with words of its own."""
