"""What two prompts share: from the start, and anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.analysis.reuse.cache_math import common_prefix

if TYPE_CHECKING:
    from array import array

_RUN = 16
"""Equal tokens in a row that prove the same text, and not chance."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The tokens of a prompt, and of the prompt with its answer as far as that was computed."""

    prompt: array[int] = field(repr=False)
    sequence: array[int] = field(repr=False)


def repeated_tokens(later: array[int], start: int, earlier: array[int]) -> int:
    """How many tokens of `later` from `start` on are in runs that `earlier` has anywhere.

    They would be served from cache if nothing before them had changed.
    """
    places = {
        earlier[place : place + _RUN].tobytes(): place
        for place in range(len(earlier) - len(earlier) % _RUN - _RUN, -1, -_RUN)
    }
    found, at = 0, start
    while at + _RUN <= len(later):
        place = places.get(later[at : at + _RUN].tobytes())
        if place is None:
            at += 1
            continue
        back = _common_before(later, at, earlier, place, at - start)
        length = common_prefix(later[at:], earlier[place:])
        found += back + length
        start = at = at + length
    return found


def _common_before(later: array[int], at: int, earlier: array[int], place: int, most: int) -> int:
    """How many tokens right before both places are equal, at most `most` and less than a run."""
    count = 0
    while (
        count < min(most, place, _RUN - 1) and later[at - count - 1] == earlier[place - count - 1]
    ):
        count += 1
    return count
