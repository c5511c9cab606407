"""How long an untouched prefix survives in the cache: what is sent, and what comes of it. Pure.

Each idle gap has a prefix of its own, since reading a prefix renews it: written once, read once.
The second, identical prompt of n tokens can hit floor((n - 1) / B) * B of them (see cache_math.py),
and the share of these that it did hit is the retention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.cache.repeat import most_cached
from exporter.model.probe import RetentionUnknown

if TYPE_CHECKING:
    from exporter.model.chat import Usage
    from exporter.model.engine import EngineSnapshot

_LATE_RATIO, _LATE_SECONDS = 0.1, 1.0


def obstacle(snapshot: EngineSnapshot | None) -> RetentionUnknown | None:
    """Why nothing can be learned from this engine at all; None where it can."""
    cache = snapshot.cache if snapshot else None
    if cache is not None and cache.prefix_caching is False:
        return RetentionUnknown.CACHING_OFF
    if cache is None or cache.match_unit_tokens is None:
        return RetentionUnknown.BLOCK_UNKNOWN
    return None


def write_obstacle(usage: Usage | None, match_unit: int) -> RetentionUnknown | None:
    """Why a prefix that was written cannot be judged later; None where it can."""
    if usage is not None and usage.transferred:
        return RetentionUnknown.TRANSFER
    if usage is None or usage.cached_tokens is None:
        return RetentionUnknown.UNREPORTED
    if usage.cached_tokens > 0:
        return RetentionUnknown.NOT_COLD
    return RetentionUnknown.TOO_SHORT if most_cached(usage.prompt_tokens, match_unit) == 0 else None


def retained(usage: Usage | None, match_unit: int) -> float | None:
    """The share of the prefix that the reading prompt hit; None where the server does not say."""
    if usage is None or usage.cached_tokens is None:
        return None
    most = most_cached(usage.prompt_tokens, match_unit)
    return None if most <= 0 else min(1.0, usage.cached_tokens / most)


def late(gap_seconds: float, waited_seconds: float) -> bool:
    """Whether the read came so long after the gap that it says nothing about this gap."""
    return waited_seconds > gap_seconds * (1 + _LATE_RATIO) + _LATE_SECONDS


def restarted(before: EngineSnapshot | None, after: EngineSnapshot | None) -> bool | None:
    """Whether another process answers than before; None where one of the two does not say."""
    start = before.process_start_time if before else None
    now = after.process_start_time if after else None
    return None if start is None or now is None else start != now
