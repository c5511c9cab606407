"""One request to an engine and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from exporter.model.engine import PartKey


class CachedTokensSource(StrEnum):
    """Where the number of cached prompt tokens comes from."""

    USAGE = "usage"
    COUNTERS = "counters"  # the growth of the engine's own counters while it ran nothing else
    NO_HITS = "no_hits"  # the engine's hit counters did not rise at all, so 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage object of an answer, in tokens.

    `cached_tokens` is None if it is unknown; otherwise `source` says how it is known. It is unknown
    if the server counts as cached what was `transferred` from another engine.

    `store`: a tier below the engine's own cache, such as a KV store, may have served part of it.
    `external_tokens` is that part; None is unknown.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    source: CachedTokensSource = CachedTokensSource.USAGE
    transferred: bool = False
    store: bool = False
    external_tokens: int | None = None

    @property
    def local_tokens(self) -> int | None:
        """What came from the engine's own cache; None is unknown."""
        if self.cached_tokens is None or not self.store:
            return self.cached_tokens
        return None if self.external_tokens is None else self.cached_tokens - self.external_tokens


_TWICE = Failure(
    FailureReason.STREAM_CUT,
    "the server closed the connection and the request was sent again, so the server may have got "
    "the prompt twice, and a hit proves nothing",
)


@dataclass(frozen=True, slots=True)
class Chat:
    """One request and its streamed answer, as the client saw it. Times are monotonic seconds.

    `sent_at` is None if the request was never sent. `token_times` are the arrival times of the
    chunks with generated text: content, reasoning or a tool call. After a failure the other fields
    hold what came before it. Times out of order are a failure of the exporter itself. `sent_twice`:
    the server closed the first connection, so it may have computed the prompt before, under the
    same salt. `usage_fault` says why a usage was rejected.

    `request_id` is that of the header X-Request-Id; None if the user sets that header.

    `index` is its number (1…) in a session, 0 outside of one. `ids_recovered`: the answer came
    without the ids of its prompt, so /tokenize was asked for them. `replica` is the one that
    computed it, if the replicas' own pages show that. `text_pieces` are the texts of the chunks,
    where the API sends no token ids; empty if the answer has other parts than text.
    """

    sent_at: float | None
    token_times: tuple[float, ...]
    finished_at: float
    usage: Usage | None
    finish_reason: str | None
    prompt_token_ids: tuple[int, ...] | None = field(default=None, repr=False)
    completion_token_ids: tuple[int, ...] | None = field(default=None, repr=False)
    message: dict[str, Any] = field(default_factory=dict, repr=False)
    failure: Failure | None = None
    sent_twice: bool = False
    usage_fault: str | None = None
    request_id: str | None = None
    index: int = 0
    ids_recovered: bool = False
    replica: PartKey | None = None
    text_pieces: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        first = min((*self.token_times[:1], self.finished_at))
        if self.failure is None and (failure := out_of_order(self.sent_at, first)) is not None:
            object.__setattr__(self, "failure", failure)

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens from cache, by its usage; None if unknown."""
        return self.usage.cached_tokens if self.usage else None

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens by its usage, 0 without one."""
        return self.usage.prompt_tokens + self.usage.completion_tokens if self.usage else 0

    @property
    def ttft_seconds(self) -> float | None:
        """From sending to the first text; None without text."""
        if self.sent_at is None or not self.token_times:
            return None
        return self.token_times[0] - self.sent_at

    @property
    def latency_seconds(self) -> float:
        """From sending to the end of the answer."""
        return self.finished_at - (self.finished_at if self.sent_at is None else self.sent_at)

    @property
    def inter_token_seconds(self) -> tuple[float, ...]:
        """The seconds between one chunk with text and the next."""
        return tuple(later - earlier for earlier, later in pairwise(self.token_times))

    def if_sent_once(self) -> Chat:
        """The same, but a failure if the server may have got the prompt twice."""
        if self.failure is not None or not self.sent_twice:
            return self
        return replace(self, failure=_TWICE)


def out_of_order(sent_at: float | None, answered_at: float | None) -> Failure | None:
    """The failure of an answer whose times are out of order; None if they are in order."""
    if sent_at is None or answered_at is None:
        return Failure(FailureReason.INTERNAL, "the exporter has no send time of the request")
    if answered_at < sent_at:
        early = f"{sent_at - answered_at:.3g} s"
        return Failure(
            FailureReason.INTERNAL,
            f"by the exporter's clock the answer came {early} before the request was sent, so no "
            "time of this request is known",
        )
    return None
