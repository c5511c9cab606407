"""What the probe finds out apart from its sessions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PauseReason(StrEnum):
    """Why the probe does not start now: the label `reason` of a gauge."""

    QUEUE = "queue"  # requests wait in the engine's queue
    USAGE = "usage"  # the engine's KV cache is nearly full of running requests
    BUDGET = "budget"  # the token budget is used up for now
    FOOTPRINT = "footprint"  # the probe would rewrite more of the cache per hour than it may
    QUIET = "quiet"  # nobody uses the engine, so heartbeats are enough
    SHARE = "share"  # users are busy, and the probe's share of the prefill would be too large
    ASLEEP = "asleep"  # the engine sleeps, so a request would wait
    PAUSED = "paused"  # the engine is paused, so a request would wait or be refused
    SCALING = "scaling"  # the engine adds or removes ranks, and refuses requests

    @property
    def by_pace(self) -> bool:
        """Whether a limit on the probe demands it: it may last, and nothing is wrong."""
        return self in (self.BUDGET, self.FOOTPRINT, self.QUIET, self.SHARE)


class Due(StrEnum):
    """What is due at a time."""

    SESSION = "session"
    HEARTBEAT = "heartbeat"


@dataclass(frozen=True, slots=True)
class IsolationReading:
    """One prompt, sent twice under one salt and once under another; None is unknown.

    `leaked`: a salt never used before was served from cache. `wedged`: the same salt was not,
    although there was room.
    """

    target: str
    leaked: bool | None
    wedged: bool | None


class RetentionUnknown(StrEnum):
    """Why a gap's retention is unknown."""

    FAILED = "failed"  # the engine did not answer, or a request failed
    CACHING_OFF = "caching_off"
    BLOCK_UNKNOWN = "block_unknown"
    UNREPORTED = "unreported"  # the server does not say how many tokens were cached
    NOT_COLD = "not_cold"  # the prefix was cached before it was written
    RULE_UNKNOWN = "rule_unknown"  # what an identical prompt can hit is not known
    TOO_SHORT = "too_short"  # not one whole block fits the model's context
    NEVER_HIT = "never_hit"  # nothing hit, and this process never hit a repeated prompt
    TRANSFER = "transfer"  # usage counts as cached what came from another engine
    RESTARTED = "restarted"  # another process answered, with an empty cache
    MIXED = "mixed"  # several engines answer at this URL; the read may have met another one
    OTHER_RANK = "other_rank"  # another rank, with a cache of its own, may have answered the read
    LATE = "late"  # the prefix was read too long after the gap


@dataclass(frozen=True, slots=True)
class RetentionReading:
    """The share (0…1) of a prefix that is still cached after an idle gap, or why it is unknown."""

    target: str
    gap_seconds: float
    ratio: float | None
    unknown: RetentionUnknown | None = None
