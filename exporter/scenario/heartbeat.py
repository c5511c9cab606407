"""The heartbeat: a short prompt and its continuation. It shows whether the cache hits at all."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from exporter.analysis.reuse.repeated_prompt import WEDGE_UNITS
from exporter.scenario.model import Message, Scenario, ScenarioKind

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "heartbeat"
_QUESTION = "Say yes."
_NEXT = "Again."


def opening_tokens(
    match_unit: int | None, repeat_hit: Callable[[int], int | None], *, proof: bool
) -> int | None:
    """The tokens of the first prompt: the fewest of which the continuation must hit a match unit.

    With `proof`, or while the engine's reuse rule is unknown, enough to prove that a cache which
    does not serve them is wedged. None if the unit is unknown.
    """
    if match_unit is None:
        return None
    longest = WEDGE_UNITS * match_unit + 1
    if proof:
        return longest
    for units in range(1, WEDGE_UNITS):
        if repeat_hit(units * match_unit + 1):
            return units * match_unit + 1
    return longest


def build(padding: int) -> Scenario:
    """The scenario with at least `padding` characters before its question."""
    words = [_QUESTION]
    length = 0
    for number in count(1):
        if length >= padding:
            break
        words.insert(number - 1, f"Fact {number}.")
        length += len(words[number - 1]) + 1
    first: Message = {"role": "user", "content": " ".join(words)}
    return Scenario(NAME, (), ((first,), ({"role": "user", "content": _NEXT},)))


HEARTBEAT = ScenarioKind(NAME, build)
