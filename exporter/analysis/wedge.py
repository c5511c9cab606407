"""Whether the prefix cache is wedged: it served this engine process before, and serves nothing now.

Everything that says so asks here: the gauge, the notice of a session, the isolation test, `check`.
The evidence is always a repeat that missed (reuse/repeated_prompt.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.reuse.repeated_prompt import RepeatOutcome
from exporter.model.session import LossCause

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.analysis.isolation import IsolationTest
    from exporter.model.session import Loss, SessionResult, TurnFacts


def wedge_of(turns: Iterable[TurnFacts]) -> Loss | None:
    """The first loss that a wedged cache caused; None without one."""
    losses = (turn.loss for turn in turns)
    return next((one for one in losses if one and one.cause is LossCause.WEDGED), None)


def wedged_after(session: SessionResult) -> bool | None:
    """Whether the cache was wedged when a session ended; None if no turn shows it either way."""
    if session.failure is not None:
        return None
    for turn in reversed(session.turns):
        if wedge_of([turn]) is not None:
            return True
        if turn.cached_tokens:
            return False
    return None


def wedged_by(test: IsolationTest) -> bool | None:
    """Whether an isolation test found the cache wedged; None where it cannot tell."""
    found = test.outcome if test.comparable else None
    if found is None:
        return None
    outcome, _ = found
    if outcome in (RepeatOutcome.HIT, RepeatOutcome.UNREPORTED):
        return False
    hit_later = test.third_cached or test.overlap_cached
    return True if outcome is RepeatOutcome.WEDGED and not hit_later else None
