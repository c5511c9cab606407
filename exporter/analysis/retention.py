"""Retention: the share of a prefix that is still cached after an idle gap.

One prefix serves all gaps, one after the other: a read renews it, so the next gap counts from that
read. What an identical prompt can hit follows from the engine's reuse rule (reuse/rule.py). The
retention is the share of that which it did hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.probe import RetentionUnknown

if TYPE_CHECKING:
    from exporter.model.chat import Usage
    from exporter.model.engine import EngineSnapshot

_LATE_RATIO, _LATE_SECONDS = 0.1, 1.0


def obstacle(snapshot: EngineSnapshot | None) -> RetentionUnknown | None:
    """Why this engine's retention cannot be measured; None if it can."""
    cache = snapshot.cache if snapshot else None
    if cache is not None and cache.prefix_caching is False:
        return RetentionUnknown.CACHING_OFF
    if cache is None or cache.match_unit_tokens is None:
        return RetentionUnknown.BLOCK_UNKNOWN
    return None


def write_obstacle(usage: Usage | None, possible: int | None) -> RetentionUnknown | None:
    """Why the retention of a prefix cannot be known after this write; None if it can.

    `possible`: the tokens that an identical prompt can hit.
    """
    if usage is not None and usage.transferred:
        return RetentionUnknown.TRANSFER
    if usage is None or usage.cached_tokens is None:
        return RetentionUnknown.UNREPORTED
    if usage.cached_tokens > 0:
        return RetentionUnknown.NOT_COLD
    if possible is None:
        return RetentionUnknown.RULE_UNKNOWN
    return None if possible else RetentionUnknown.TOO_SHORT


def retention_ratio(usage: Usage | None, possible: int | None) -> float | None:
    """The share of the `possible` tokens that the second prompt hit; None if that is unknown."""
    if usage is None or usage.cached_tokens is None or not possible:
        return None
    return min(1.0, usage.cached_tokens / possible)


def other_rank(ratio: float | None, ranks: int | None) -> bool:
    """Whether a read that hit less than it could may have run on another one of `ranks`."""
    return ratio is not None and ratio < 1 and ranks is not None and ranks > 1


def too_late(gap_seconds: float, waited_seconds: float) -> bool:
    """Whether the read came too long after the gap to say anything about this gap."""
    return waited_seconds > gap_seconds * (1 + _LATE_RATIO) + _LATE_SECONDS


def restarted(before: EngineSnapshot | None, after: EngineSnapshot | None) -> bool | None:
    """Whether another process answers now; None if a start time is unknown."""
    start = before.process_start_time if before else None
    now = after.process_start_time if after else None
    return None if start is None or now is None else start != now
