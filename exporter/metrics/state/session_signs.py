"""What one session shows about its target's cache, computed once per session. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.analysis.session_totals import session_totals
from exporter.model.session import LossCause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.analysis.session_totals import SessionTotals
    from exporter.model.session import SessionResult, TurnFacts

LOSING_BELOW = 0.8
"""Efficiency of a session. The alert VllmCacheEfficiencyLow has the same bound and causes."""


@dataclass(frozen=True, slots=True)
class SessionSigns:
    """The signs of one session."""

    broken: bool  # the prefix is not stable
    serves_little: bool  # broken, and less than half of the later prompts came from the cache
    hides_hits: bool  # the engine counted hits that `usage` does not report
    loses: bool  # the efficiency is below LOSING_BELOW
    could_hit: bool  # there are turns that could hit
    missed_all: bool  # no token of those turns came from the cache
    unknown: bool  # no turn reports cached tokens


def signs_of(result: SessionResult) -> SessionSigns:
    """The signs of a session, finished or failed."""
    turns, totals = result.turns, session_totals(result.turns)
    broken = result.prefix is not None and not result.prefix.stable
    could = [turn for turn in turns if turn.index > 1 and _attainable_at_most(turn) != 0]
    return SessionSigns(
        broken=broken,
        serves_little=broken and not _mostly_served(turns),
        hides_hits=LossCause.UNREPORTED in totals.lost_by,
        loses=_loses(totals),
        could_hit=bool(could),
        missed_all=all(turn.cached_tokens == 0 for turn in could),
        unknown=all(turn.cached_tokens is None for turn in turns),
    )


def _mostly_served(turns: Sequence[TurnFacts]) -> bool:
    """Half or more of the prompts after the first came from the cache; unknown counts as not."""
    later = [turn for turn in turns if turn.index > 1]
    prompts = sum(turn.prompt_tokens or 0 for turn in later)
    return 2 * sum(turn.cached_tokens or 0 for turn in later) >= prompts > 0


def _attainable_at_most(turn: TurnFacts) -> int | None:
    """What the engine could have served; the ideal while its reuse rule is unknown."""
    attainable = turn.attainable_cached_tokens
    return turn.ideal_cached_tokens if attainable is None else attainable


def _loses(totals: SessionTotals) -> bool:
    """Unexplained losses do not count: a reuse rule that the exporter does not know can cause them.

    While the rule is unknown, the ideal is the bound.
    """
    attainable, ideal = totals.attainable_tokens, totals.ideal_tokens
    could = ideal if attainable is None else attainable
    lost = sum(n for cause, n in totals.lost_by.items() if cause is not LossCause.UNEXPLAINED)
    return bool(could) and lost > (1 - LOSING_BELOW) * (could or 0)
