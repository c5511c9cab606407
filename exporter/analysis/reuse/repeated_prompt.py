"""What an identical prompt, sent again at once under the same salt, says about the cache.

The only rule for "the cache is wedged": losses, the isolation test and `check` use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from exporter.analysis.hits.traffic import pressed

if TYPE_CHECKING:
    from exporter.analysis.hits.traffic import Traffic

WEDGE_UNITS = 3
"""Match units that a prompt must exceed: a repeat of a shorter prompt proves nothing."""


class RepeatOutcome(Enum):
    """What a repeated prompt showed."""

    HIT = auto()
    UNREPORTED = auto()  # the engine's counters show a hit that usage does not report
    WEDGED = auto()  # this process hit before, and now it does not
    NEVER_HIT = auto()  # this process has never hit
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same prompt, sent again at once under the same salt.

    `cached` are its tokens from cache, `traffic` is what the engine did in between. `same_ids`:
    both prompts have the same token ids; None is unknown.
    """

    cached: int
    traffic: Traffic | None
    same_ids: bool | None = None


@dataclass(frozen=True, slots=True)
class RepeatConditions:
    """What a repeat is judged by, in tokens; None is unknown.

    `repeat_hit` is what it must hit by the engine's reuse rule. `room` is what the cache can take
    in before it must evict the prompt. `hit_before`: this engine process served one of the
    exporter's prompts from cache before. `several`: several engines answer at this URL.
    """

    prompt: int
    match_unit: int | None
    repeat_hit: int | None
    room: float | None
    ranks: int | None
    hit_before: bool
    prefix_caching: bool | None = None
    several: bool = False


def most_cached(prompt_tokens: int, match_unit: int) -> int:
    """The most tokens that an identical prompt can hit: whole units without its last token."""
    return max(0, prompt_tokens - 1) // match_unit * match_unit


def long_enough(prompt: int, match_unit: int) -> bool:
    """Whether a prompt, sent twice, must hit three match units or more on a working engine."""
    return prompt > WEDGE_UNITS * match_unit


def judge_repeat(repeat: Repeat, by: RepeatConditions) -> tuple[RepeatOutcome, str]:
    """The outcome, and the reason for it in words."""
    if repeat.cached > 0:
        return RepeatOutcome.HIT, f"it hit {repeat.cached:,} tokens"
    traffic = repeat.traffic
    if traffic is not None and (traffic.unreported_hits or 0) > 0:
        return RepeatOutcome.UNREPORTED, (
            f"the engine counted at least {traffic.unreported_hits:,.0f} hit tokens for it, and "
            f"its usage reported none"
        )
    reason = _why_unclear(repeat, by)
    if reason is not None:
        return RepeatOutcome.UNKNOWN, reason
    if not by.hit_before:
        return (
            RepeatOutcome.NEVER_HIT,
            "no prompt of the probe is known to have hit in this engine process",
        )
    return RepeatOutcome.WEDGED, "this engine process had hit before"


def _why_unclear(repeat: Repeat, by: RepeatConditions) -> str | None:
    """Why a repeat that missed says nothing about the cache; None if it does say something."""
    traffic, unit = repeat.traffic, by.match_unit
    full = pressed(traffic, by.room)
    hidden = traffic is None or traffic.hits_beyond is None
    if traffic is not None and traffic.hits_beyond is not None:
        hidden = traffic.hits_beyond >= (by.repeat_hit or 1)
    reasons = {
        "prefix caching is off": by.prefix_caching is False,
        "several engines answer at this URL": by.several
        or (traffic is not None and traffic.elsewhere > 0),
        "the size of a match unit is unknown": unit is None,
        "the context is too short for three match units": unit is not None
        and not long_enough(by.prompt, unit),
        "the two requests may have run on different ranks": by.ranks != 1,
        "the two prompts had different token ids: the chat template does not render a conversation "
        "the same way each time": repeat.same_ids is False,
        "whether the two prompts had the same token ids is unknown": repeat.same_ids is None,
        "other requests filled the cache in between": full is True,
        "whether other requests filled the cache in between is unknown": full is None,
        "whether the engine counted a hit for it is unknown": hidden,
    }
    return next((words for words, holds in reasons.items() if holds), None)
