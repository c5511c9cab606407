"""What the cache served, lost and saved in a session, in sentences. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.paired import difference
from exporter.wording import numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.session import LossCause, SessionResult

ALL_BY_RULE = "all that the engine's reuse rule allows"


def served_and_lost(totals: SessionTotals) -> str:
    """For a session with at least one turn."""
    saved = ttft_saving(totals.ttft_saved_seconds)
    time = "" if saved is None else f" {saved[0].upper()}{saved[1:]}."
    return f"{_served(totals)}{_lost(totals)}.{time}"


def _served(totals: SessionTotals) -> str:
    if totals.cached_tokens is None or totals.prompt_tokens is None:
        return "The number of prompt tokens that the cache served is unknown"
    served, prompt = numbers.count(totals.cached_tokens), numbers.count(totals.prompt_tokens)
    share = numbers.percent(totals.hit_ratio)
    stored = numbers.count(totals.external_tokens)
    tier = f", {stored} of them from an external KV store" if totals.external_tokens else ""
    return f"The cache served {served} of {prompt} prompt tokens ({share}){tier}"


def ttft_saving(saved_seconds: Sequence[float]) -> str | None:
    """What the cache saved in time to first token, with its interval, from pairs of cold and warm.

    None if there are too few pairs to tell it from chance.
    """
    found = difference(saved_seconds)
    if found is None or found.low is None or found.high is None:
        return None
    if found.low <= 0 <= found.high:
        low, high = _earlier(found.low), _earlier(found.high)
        return f"TTFT: no measurable difference, 95 % interval {low} to {high}"
    amount, word = numbers.seconds(abs(found.estimate)), "sooner" if found.estimate > 0 else "later"
    ends = sorted((abs(found.low), abs(found.high)))
    interval = f"{numbers.seconds(ends[0])} to {numbers.seconds(ends[1])}"
    return f"the first token came {amount} {word} in the median, 95 % interval {interval}"


def _earlier(seconds: float) -> str:
    return f"{numbers.seconds(abs(seconds))} {'sooner' if seconds > 0 else 'later'}"


def _lost(totals: SessionTotals) -> str:
    if totals.cached_tokens is None or totals.turns == 1:
        return ""
    if totals.ideal_tokens == 0 or totals.attainable_tokens == 0:
        return ", and could have served none"
    if totals.lost_tokens is None:
        return ", but how many it could have served is unknown"
    if totals.lost_tokens == 0:
        return f", {ALL_BY_RULE if totals.rule_lost_by else 'all that it could have'}"
    causes = ", ".join(_cause(cause, tokens, totals) for cause, tokens in totals.lost_by.items())
    return f" and lost {numbers.count(totals.lost_tokens)} that it could have served: {causes}"


def _cause(cause: LossCause, tokens: int, totals: SessionTotals) -> str:
    where = turns_in_words(totals.lost_in[cause])
    several = len(totals.lost_by) > 1
    return f"{f'{numbers.count(tokens)} ' if several else ''}{numbers.spaced(cause)} in {where}"


def turns_in_words(turns: Sequence[int]) -> str:
    """For example "turn 3", "turns 3 and 5", "turns 2 to 8"."""
    first, last = turns[0], turns[-1]
    if len(turns) == 1:
        return f"turn {first}"
    if len(turns) > 2 and last - first + 1 == len(turns):  # noqa: PLR2004 - two are named
        return f"turns {first} to {last}"
    return f"turns {', '.join(map(str, turns[:-1]))} and {last}"


def in_failed_turn(session: SessionResult) -> str:
    """As in " in turn 3"; empty if the session failed before its first turn."""
    return "" if session.failed_turn is None else f" in turn {session.failed_turn}"
