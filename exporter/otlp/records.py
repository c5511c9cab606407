"""What is sent over OTLP, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.model.session import SessionResult


class Queued(NamedTuple):
    """A session, the URL and the labels of its target, and the seed of its ids, which stay if it is
    sent again.
    """

    result: SessionResult
    url: str | None
    labels: Mapping[str, str]
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """`reason` is a short word, "" after success. `lasting`: the same data would fail again."""

    reason: str = ""
    detail: str = ""
    lasting: bool = False
