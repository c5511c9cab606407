"""Why an engine refused a request, by its error message.

Servers know different fields of a request, and most name the field that they refuse: vLLM's V0
engine refuses `cache_salt`, strict gateways refuse every field that OpenAI's API does not have.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from collections.abc import Iterable


_LIMITS = (
    # vLLM up to 0.13 and since 0.18, and OpenAI
    re.compile(r"maximum context length is ([\d,]{1,12}) tokens"),
    # vLLM 0.14 to 0.17
    re.compile(r"context length is only ([\d,]{1,12}) tokens"),
)
DETAIL_LIMIT = 300
# vLLM's messages while it is paused or being scaled (v1/engine/core.py since 0.33, and
# entrypoints/serve/elastic_ep/middleware.py): with HTTP 503, or as an error in a stream.
_RESTS = {
    "generation is paused": FailureReason.PAUSED,
    "model is currently scaling": FailureReason.SCALING,
}
_OF_A_WRONG_FIELD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer with an error status: its failure, and all its text."""

    status: int
    failure: Failure
    words: str = field(repr=False)

    @property
    def context_length(self) -> int | None:
        """The model's context in tokens, if a prompt was refused because it is longer."""
        if self.failure.reason is not FailureReason.PROMPT_TOO_LONG:
            return None
        found = (limit.search(self.words) for limit in _LIMITS)
        lengths = [int(one[1].replace(",", "")) for one in found if one is not None]
        return lengths[0] if lengths and lengths[0] > 0 else None

    def names(self, sent: Iterable[str]) -> str | None:
        """The first of the `sent` fields that the refusal names; None if it is about another thing.

        A server may quote the whole request: a name in quotes before a colon is part of a quote.
        """
        wrong = self.failure.reason is FailureReason.BAD_REQUEST
        if not wrong or self.status not in _OF_A_WRONG_FIELD:
            return None
        places = {name: _place(name, self.words) for name in sent}
        named = {name: place for name, place in places.items() if place is not None}
        return min(named, key=named.__getitem__, default=None)


def read_refusal(status: int, body: bytes) -> Refusal:
    """Read an answer with an error status."""
    return Refusal(status, failure_of(status, body), body.decode("utf-8", "replace"))


def _place(name: str, words: str) -> int | None:
    mention = re.search(rf"(?<!\w){re.escape(name)}(?!\w)(?!\\?[\"']\s*:)", words)
    return None if mention is None else mention.start()


def failure_of(status: int, body: bytes) -> Failure:
    """The failure for an HTTP status other than 200 on /v1/chat/completions.

    vLLM 0.32.0 answers 401 `{"error": "Unauthorized"}`, 404 with `param: "model"` for an unknown
    model and 400 with `param: "input_tokens"` for a prompt beyond the context; older versions
    give the same sentences without `param`.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = None
    error = error_in(parsed) if isinstance(parsed, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    detail = f"HTTP {status}: {error_text(error) if error is not None else _first_line(body)}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Failure(FailureReason.UNAUTHORIZED, detail)
    if status == HTTPStatus.NOT_FOUND:
        known = param == "model" or (error is not None and "model" in error_text(error).lower())
        return Failure(FailureReason.MODEL_NOT_FOUND if known else FailureReason.PROTOCOL, detail)
    # A prompt that fills the whole context leaves room for an answer of 0 tokens.
    full = "max_tokens must be at least 1, got 0" in detail
    if param == "input_tokens" or "maximum context length" in detail or full:
        return Failure(FailureReason.PROMPT_TOO_LONG, detail)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and (rest := rest_in(detail)) is not None:
        return Failure(rest, detail)
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return Failure(FailureReason.OVERLOADED, detail)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(FailureReason.SERVER_ERROR, detail)
    if status >= HTTPStatus.BAD_REQUEST:
        return Failure(FailureReason.BAD_REQUEST, detail)
    return Failure(FailureReason.PROTOCOL, f"{detail} where a stream was expected")


def _first_line(body: bytes) -> str:
    text = body[:DETAIL_LIMIT].decode("utf-8", "replace").strip()
    return text.splitlines()[0] if text else "no body"


def error_in(chunk: dict[str, Any]) -> Any | None:
    """The error object of a chunk: `{"error": …}`, or vLLM's older `{"object": "error", …}`."""
    if chunk.get("error") is not None:
        return chunk["error"]
    return chunk if chunk.get("object") == "error" else None


def error_text(error: Any) -> str:
    """The message of an OpenAI error object, short enough for a log line."""
    text = error.get("message") if isinstance(error, dict) else error
    return str(text or "no message")[:DETAIL_LIMIT]


def says_rank_is_gone(failure: Failure) -> bool:
    """Whether the engine refused a request because it does not have the rank that it names."""
    words = ("data_parallel_rank", "out of range")
    wrong = failure.reason is FailureReason.BAD_REQUEST
    return wrong and all(each in failure.detail for each in words)


def rest_in(words: str) -> FailureReason | None:
    """PAUSED or SCALING if an error message says so."""
    said = words.lower()
    return next((reason for text, reason in _RESTS.items() if text in said), None)
