"""What an engine refused a request for, read from its words. Pure.

Servers differ in which fields of a request they know, and most refuse what they do not know by
name: vLLM's V0 engine `cache_salt`, strict gateways whatever OpenAI's API does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from exporter.engine.wire.answer import refusal
from exporter.model import FailureReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.model import Failure

_LIMITS = (
    # vLLM up to 0.13 and since 0.18, and OpenAI
    re.compile(r"maximum context length is ([\d,]{1,12}) tokens"),
    # vLLM 0.14 to 0.17
    re.compile(r"context length is only ([\d,]{1,12}) tokens"),
)
_OF_A_WRONG_FIELD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer with an error status: the failure that it is, and the whole of what it says."""

    status: int
    failure: Failure
    words: str = field(repr=False)

    @property
    def context_length(self) -> int | None:
        """The model's context in tokens, where a prompt was refused for being longer."""
        if self.failure.reason is not FailureReason.PROMPT_TOO_LONG:
            return None
        found = (limit.search(self.words) for limit in _LIMITS)
        lengths = [int(one[1].replace(",", "")) for one in found if one is not None]
        return lengths[0] if lengths and lengths[0] > 0 else None

    def names(self, sent: Iterable[str]) -> str | None:
        """The first of the `sent` fields that it names; None where it refuses something else.

        A server may quote the whole request. A name in quotes before a colon is such a quote.
        """
        wrong = self.failure.reason is FailureReason.BAD_REQUEST
        if not wrong or self.status not in _OF_A_WRONG_FIELD:
            return None
        places = {name: _place(name, self.words) for name in sent}
        named = {name: place for name, place in places.items() if place is not None}
        return min(named, key=named.__getitem__, default=None)


def read_refusal(status: int, body: bytes) -> Refusal:
    """What an answer with an error status says."""
    return Refusal(status, refusal(status, body), body.decode("utf-8", "replace"))


def _place(name: str, words: str) -> int | None:
    mention = re.search(rf"(?<!\w){re.escape(name)}(?!\w)(?!\\?[\"']\s*:)", words)
    return None if mention is None else mention.start()
