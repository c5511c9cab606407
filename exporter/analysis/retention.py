"""Retention: the share of a prefix that is still cached after an idle gap.

Each gap has its own prefix, written once and read once, because a read renews the prefix. The
second, identical prompt of n tokens can hit floor((n - 1) / B) * B of them (see cache_math.py). The
retention is the share of these that it did hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.reuse.repeated_prompt import most_cached
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


def write_obstacle(usage: Usage | None, match_unit: int) -> RetentionUnknown | None:
    """Why the retention of a prefix cannot be known after this write; None if it can."""
    if usage is not None and usage.transferred:
        return RetentionUnknown.TRANSFER
    if usage is None or usage.cached_tokens is None:
        return RetentionUnknown.UNREPORTED
    if usage.cached_tokens > 0:
        return RetentionUnknown.NOT_COLD
    return RetentionUnknown.TOO_SHORT if most_cached(usage.prompt_tokens, match_unit) == 0 else None


def retention_ratio(usage: Usage | None, match_unit: int) -> float | None:
    """The share of the prefix that the second prompt hit; None if the server does not report it."""
    if usage is None or usage.cached_tokens is None:
        return None
    most = most_cached(usage.prompt_tokens, match_unit)
    return None if most <= 0 else min(1.0, usage.cached_tokens / most)


def too_late(gap_seconds: float, waited_seconds: float) -> bool:
    """Whether the read came too long after the gap to say anything about this gap."""
    return waited_seconds > gap_seconds * (1 + _LATE_RATIO) + _LATE_SECONDS


def restarted(before: EngineSnapshot | None, after: EngineSnapshot | None) -> bool | None:
    """Whether another process answers now; None if a start time is unknown."""
    start = before.process_start_time if before else None
    now = after.process_start_time if after else None
    return None if start is None or now is None else start != now
