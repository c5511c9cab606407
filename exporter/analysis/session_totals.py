"""The sums over a session's turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from exporter.model.reuse import RuleCause
    from exporter.model.session import LossCause, TurnFacts


@dataclass(frozen=True, slots=True)
class SessionTotals:
    """Tokens over all turns of a session, and ratios 0…1 of these sums.

    A sum is None if one of its turns is unknown, so no ratio is that of half a session.
    `external_tokens` is the part of the cached ones that came from a store. `ideal_tokens`,
    `attainable_tokens` and `lost_tokens` leave out the first turn, whose ideal is 0 on every
    engine. `rule_lost_by` is what the engine's reuse rule gives up, by cause. `lost_in` has the
    turns that lost tokens to each cause. `ttft_saved_seconds` has one value for each turn that hit
    and has a cold control.
    """

    turns: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    external_tokens: int | None
    ideal_tokens: int | None
    attainable_tokens: int | None
    lost_tokens: int | None
    rule_lost_by: Mapping[RuleCause, int] = field(default_factory=dict)
    lost_by: Mapping[LossCause, int] = field(default_factory=dict)
    lost_in: Mapping[LossCause, tuple[int, ...]] = field(default_factory=dict)
    ttft_saved_seconds: tuple[float, ...] = ()

    @property
    def hit_ratio(self) -> float | None:
        """Cached / prompt tokens over all turns, with the cold first turn."""
        if self.cached_tokens is None or not self.prompt_tokens:
            return None
        return self.cached_tokens / self.prompt_tokens

    @property
    def efficiency_ratio(self) -> float | None:
        """Cached / attainable tokens of the later turns; None if nothing is attainable."""
        if self.lost_tokens is None or not self.attainable_tokens:
            return None
        return (self.attainable_tokens - self.lost_tokens) / self.attainable_tokens


def session_totals(turns: Sequence[TurnFacts]) -> SessionTotals:
    """The sums over `turns`, which are in order."""
    later = [turn for turn in turns if turn.index > 1]
    attainable = _sum([turn.attainable_cached_tokens for turn in later])
    cached = _sum([turn.cached_tokens for turn in later])
    by: dict[LossCause, int] = {}
    where: dict[LossCause, tuple[int, ...]] = {}
    ruled: dict[RuleCause, int] = {}
    for turn in turns:
        if turn.loss is not None:
            cause = turn.loss.cause
            by[cause] = by.get(cause, 0) + turn.loss.tokens
            where[cause] = (*where.get(cause, ()), turn.index)
        for part in turn.rule_losses:
            ruled[part.cause] = ruled.get(part.cause, 0) + part.tokens
    return SessionTotals(
        turns=len(turns),
        prompt_tokens=_sum([turn.prompt_tokens for turn in turns]),
        completion_tokens=_sum([turn.completion_tokens for turn in turns]),
        cached_tokens=_sum([turn.cached_tokens for turn in turns]),
        external_tokens=_sum([turn.external_cached_tokens for turn in turns]),
        ideal_tokens=_sum([turn.ideal_cached_tokens for turn in later]),
        attainable_tokens=attainable,
        lost_tokens=None if attainable is None or cached is None else attainable - cached,
        rule_lost_by=dict(sorted(ruled.items(), key=lambda item: -item[1])),
        lost_by=dict(sorted(by.items(), key=lambda item: -item[1])),
        lost_in=where,
        ttft_saved_seconds=ttft_saved(turns),
    )


def ttft_saved(turns: Iterable[TurnFacts]) -> tuple[float, ...]:
    """The seconds of TTFT that the cache saved, for each turn where that is known, in order."""
    saved = (turn.ttft_saved_seconds for turn in turns)
    return tuple(seconds for seconds in saved if seconds is not None)


def _sum(values: Sequence[int | None]) -> int | None:
    """The sum; None if one value is unknown, or without values."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


_SLOW_TIMES, _SLOW_SECONDS = 3.0, 0.2
_LEAST_TURNS = 4


def median_ttft(turns: Sequence[TurnFacts]) -> float | None:
    """The median time to first token of the turns after the first; None with too few of them."""
    known = [
        turn.ttft_seconds for turn in turns if turn.index > 1 and turn.ttft_seconds is not None
    ]
    return median(known) if len(known) >= _LEAST_TURNS else None


def slow_turns(turns: Sequence[TurnFacts]) -> list[TurnFacts]:
    """The later turns whose time to first token is three times the median or more, and at least
    0.2 s above it. The first turn computes its whole prompt, so it is not among them.
    """
    usual = median_ttft(turns)
    if usual is None:
        return []
    least = max(_SLOW_TIMES * usual, usual + _SLOW_SECONDS)
    return [turn for turn in turns if turn.index > 1 and (turn.ttft_seconds or 0.0) >= least]
