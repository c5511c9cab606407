"""What one session says of its target's cache, worked out once and not at each look at it. Pure."""

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
"""Efficiency of a session; the alert VllmCacheEfficiencyLow has the same bound and causes."""


@dataclass(frozen=True, slots=True)
class SessionSigns:
    """`broken`: the prefix is not stable; `serves_little`: and less than half of the prompts after
    the first is served. `hides_hits`: the engine counted hits that usage does not tell. `loses`:
    more than LOSING_BELOW allows. `could_hit`: there are turns that could have hit, and
    `missed_all`: not one token of these did. `unknown`: cached tokens are known of no turn.
    """

    broken: bool
    serves_little: bool
    hides_hits: bool
    loses: bool
    could_hit: bool
    missed_all: bool
    unknown: bool


def signs_of(result: SessionResult) -> SessionSigns:
    """The signs of a session, finished or not."""
    turns, totals = result.turns, session_totals(result.turns)
    broken = result.prefix is not None and not result.prefix.stable
    could = [turn for turn in turns if turn.index > 1 and turn.ideal_cached_tokens != 0]
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
    """Of the prompts after the first, half or more; what is not known is not served."""
    later = [turn for turn in turns if turn.index > 1]
    prompts = sum(turn.prompt_tokens or 0 for turn in later)
    return 2 * sum(turn.cached_tokens or 0 for turn in later) >= prompts > 0


def _loses(totals: SessionTotals) -> bool:
    """By causes that are no rule of the engine's own, which may take what is unexplained."""
    lost = sum(n for cause, n in totals.lost_by.items() if cause is not LossCause.UNEXPLAINED)
    return bool(totals.ideal_tokens) and lost > (1 - LOSING_BELOW) * (totals.ideal_tokens or 0)
