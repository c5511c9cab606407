"""One request to an engine and what came of it: records that the measuring client fills. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from exporter.model import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.engine.wire.answer import Json
    from exporter.model import Usage

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


_TWICE = Failure(
    FailureReason.STREAM_CUT,
    "the server closed the connection on which the request was sent first, so it may have had the "
    "prompt twice, and a hit says nothing",
)


@dataclass(frozen=True, slots=True)
class Chat:
    """What came of one request. Times are monotonic seconds, as in `exporter.model.Turn`.

    `sent_at` is None when the request never left. After a failure the other fields hold what had
    come until then. An answer that precedes its request is a failure of the exporter's own: no
    time can be taken from it. `sent_twice`: the server closed the connection on which the request
    was sent first, so it may have computed the prompt before, under the same salt. `usage_fault`
    says why no number of a usage that came is believed.
    """

    sent_at: float | None
    token_times: tuple[float, ...]
    finished_at: float
    usage: Usage | None
    finish_reason: str | None
    prompt_token_ids: tuple[int, ...] | None = field(repr=False)
    completion_token_ids: tuple[int, ...] | None = field(repr=False)
    message: Json = field(repr=False)
    failure: Failure | None
    sent_twice: bool = False
    usage_fault: str | None = None

    def __post_init__(self) -> None:
        first = min((*self.token_times[:1], self.finished_at))
        if self.failure is None and (failure := out_of_order(self.sent_at, first)) is not None:
            object.__setattr__(self, "failure", failure)

    def once(self) -> Chat:
        """The same, as a failure where the server may have had the prompt twice."""
        if self.failure is not None or not self.sent_twice:
            return self
        return replace(self, failure=_TWICE)


def out_of_order(sent_at: float | None, answered_at: float | None) -> Failure | None:
    """What is wrong with the stamps of a whole answer, if anything."""
    if sent_at is None or answered_at is None:
        return Failure(FailureReason.INTERNAL, "the exporter did not see when the request was sent")
    if answered_at < sent_at:
        early = f"{sent_at - answered_at:.3g} s"
        return Failure(
            FailureReason.INTERNAL,
            f"by the exporter's stamps the answer came {early} before its request was sent, which "
            "cannot be: no time of this request is known",
        )
    return None
