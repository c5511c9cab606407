"""What two prompts share: from the start, and anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.analysis.reuse.cache_math import common_prefix

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable

_RUN = 16
"""Equal tokens in a row that prove the same text, and not chance."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """The tokens of a prompt, and of the prompt with its answer as far as that was computed."""

    prompt: array[int] = field(repr=False)
    sequence: array[int] = field(repr=False)


def repeated_tokens(later: array[int], start: int, earlier: array[int], used: int = 0) -> int:
    """How many tokens of `later` from `start` on are in runs that `earlier` has from `used` on.

    They would be served from cache if nothing before them had changed. A text that `later` has
    more often than `earlier`, such as a file that is read again, is new each further time.
    """
    starts = range(used, len(earlier) - _RUN + 1, _RUN)
    free, places = set(starts), _places_of_runs(earlier, reversed(starts))
    found, at = 0, start
    while at + _RUN <= len(later):
        known = places.get(later[at : at + _RUN].tobytes(), [])
        while known and known[-1] not in free:
            known.pop()
        if not known:
            at += 1
            continue
        place = known[-1]
        back = _common_before(later, at, earlier, place, min(at - start, place - used))
        length = _taken(free, place, common_prefix(later[at:], earlier[place:]))
        found += back + length
        start = at = at + length
    return found


def _places_of_runs(tokens: array[int], starts: Iterable[int]) -> dict[bytes, list[int]]:
    places: dict[bytes, list[int]] = {}
    for place in starts:
        places.setdefault(tokens[place : place + _RUN].tobytes(), []).append(place)
    return places


def _taken(free: set[int], place: int, most: int) -> int:
    """How many of `most` tokens from `place` on are in runs that are free. They no longer are."""
    for start in range(place, place + most - _RUN + 1, _RUN):
        if start not in free:
            return start - place
        free.remove(start)
    return most


def _common_before(later: array[int], at: int, earlier: array[int], place: int, most: int) -> int:
    """How many tokens right before both places are equal, at most `most` and less than a run."""
    count = 0
    while count < min(most, _RUN - 1) and later[at - count - 1] == earlier[place - count - 1]:
        count += 1
    return count
