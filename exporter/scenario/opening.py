"""How long the first prompt of a session should be.

Long enough for what the session measures, and no longer: all that a session sends takes room in the
cache, and pushes out what users have there.
"""

from __future__ import annotations

from collections.abc import Callable

Opening = Callable[[int | None, int | None], int | None]
"""The wanted tokens of a first prompt, by the match unit and the capacity of one rank's cache, both
in tokens. Both are None where they are unknown. The result is None if any length will do."""

_MATCH_UNITS = 8
"""A hit is whole match units. With eight of them a partial loss is visible."""
_LONGEST = 2048
"""Tokens. The cost of prefill is the slope between short prompts and long ones: longer ones would
show it better, but real agents begin with a few thousand tokens."""
_SHARE = 200
"""At most this part of a cache, so that a session a minute leaves room for users."""


def wanted_opening(match_unit: int | None, capacity_tokens: int | None) -> int:
    """The wanted tokens of the first prompt of a full session."""
    affordable = _LONGEST if capacity_tokens is None else min(_LONGEST, capacity_tokens // _SHARE)
    return max(_MATCH_UNITS * (match_unit or 0), affordable)


def room_is_scarce(capacity_tokens: int | None) -> bool:
    """Whether a cache is too small for the longest opening."""
    return capacity_tokens is not None and capacity_tokens // _SHARE < _LONGEST
