"""What an identical prompt, sent again at once under the same salt, says of the cache. Pure.

The one rule for "the cache is wedged": of losses, of the salt test, of `check`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from exporter.analysis.cache.traffic import pressed

if TYPE_CHECKING:
    from exporter.analysis.cache.traffic import Traffic

WEDGE_UNITS = 3
"""How many match units a prompt must span before a repeat that misses says anything."""


class Outcome(Enum):
    """What a repeat showed."""

    HIT = auto()
    UNREPORTED = auto()  # the engine's own counters show a hit that usage does not tell
    WEDGED = auto()  # this process hit before, and does not hit any more
    NEVER_HIT = auto()  # it does not hit, and never did
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same prompt sent again at once under the same salt: what came from cache, and the traffic
    in between. `same_ids`: whether its token ids are known to be those of the first one.
    """

    cached: int
    traffic: Traffic | None
    same_ids: bool | None = None


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a repeat must be judged by, in tokens; None is unknown.

    `hit_before`: this engine process served one of the exporter's prompts from cache before.
    """

    prompt: int
    match_unit: int | None
    room: float | None
    ranks: int | None
    hit_before: bool
    prefix_caching: bool | None = None
    several: bool = False


def most_cached(prompt_tokens: int, match_unit: int) -> int:
    """What an identical prompt can hit at most: whole units, and never its last token."""
    return max(0, prompt_tokens - 1) // match_unit * match_unit


def long_enough(prompt: int, match_unit: int) -> bool:
    """Whether a prompt, sent twice, must hit at least three match units on a sound engine."""
    return prompt > WEDGE_UNITS * match_unit


def judged(repeat: Repeat, by: Circumstances) -> tuple[Outcome, str]:
    """The outcome, and in words why it is no other."""
    if repeat.cached > 0:
        return Outcome.HIT, f"it hit {repeat.cached} tokens"
    traffic = repeat.traffic
    if traffic is not None and (traffic.unreported_hits or 0) > 0:
        return Outcome.UNREPORTED, (
            f"the engine counted at least {traffic.unreported_hits:.0f} hit tokens for it, and its "
            f"usage reported none"
        )
    excuse = _excuse(repeat, by)
    if excuse is not None:
        return Outcome.UNKNOWN, excuse
    if not by.hit_before:
        return Outcome.NEVER_HIT, "this engine process has not served a prompt of the probe before"
    return Outcome.WEDGED, "this engine process had hit before"


def _excuse(repeat: Repeat, by: Circumstances) -> str | None:
    """Why a repeat that missed says nothing of the cache; None where it does."""
    traffic, unit = repeat.traffic, by.match_unit
    full = pressed(traffic, by.room)
    most = None if unit is None else most_cached(by.prompt, unit)
    hidden = traffic is None or traffic.hits_beyond is None
    if traffic is not None and traffic.hits_beyond is not None and most is not None:
        hidden = traffic.hits_beyond >= most
    excuses = {
        "prefix caching is off": by.prefix_caching is False,
        "several engines answer at this URL": by.several
        or (traffic is not None and traffic.elsewhere > 0),
        "the size of a match unit is unknown": unit is None,
        "the context is too short for three match units": unit is not None
        and not long_enough(by.prompt, unit),
        "the two may have run on different ranks": by.ranks != 1,
        "the two had different token ids, since the chat template renders one conversation in "
        "another way each time": repeat.same_ids is False,
        "whether the two had the same token ids is unknown": repeat.same_ids is None,
        "others filled the cache in between": full is True,
        "whether others filled the cache in between is unknown": full is None,
        "whether the engine counted a hit for it is unknown": hidden,
    }
    return next((words for words, holds in excuses.items() if holds), None)
