"""Which replica behind a router computed a request, by the replicas' own counters. Pure."""

from __future__ import annotations

from enum import Enum, auto
from itertools import pairwise
from typing import TYPE_CHECKING

from exporter.analysis.hits.counted_hits import ROUNDING, all_hits, counters_include

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from exporter.model.chat import Usage
    from exporter.model.engine import EngineSnapshot, PartKey
    from exporter.model.session import TurnFacts


def possible_replicas(
    before: EngineSnapshot, after: EngineSnapshot, usage: Usage
) -> AbstractSet[PartKey]:
    """The replicas whose counters show a request of this usage between two readings.

    More than one if other clients' requests are in the growth, too. Empty while the counters do not
    include the request.
    """
    return {key for key in after.parts if _may_include(before, after, usage, key)}


def replica_of(before: EngineSnapshot, after: EngineSnapshot, usage: Usage) -> PartKey | None:
    """The one replica that can have computed the request; None if that is not certain."""
    possible = possible_replicas(before, after, usage)
    if before.unread or after.unread or len(possible) != 1:
        return None
    (key,) = possible
    return key if before.parts.keys() == after.parts.keys() else None


def _may_include(before: EngineSnapshot, after: EngineSnapshot, usage: Usage, key: PartKey) -> bool:
    """Whether a replica's counters can include the request; a restart hides what it counted."""
    one, two = before.parts.get(key), after.parts[key]
    if one is None or one.process_start_time != two.process_start_time:
        return True
    if not counters_include(one, two, usage.prompt_tokens):
        return False
    hits = all_hits(one, two)
    return hits is None or hits >= (usage.cached_tokens or 0) - ROUNDING


class Hop(Enum):
    """Where a turn ran, compared with the turn before it."""

    ONE_ENGINE = auto()  # nothing is routed, as far as is known
    SAME_REPLICA = auto()
    OTHER_REPLICA = auto()
    UNKNOWN = auto()


def hop(before: str | PartKey | None, now: str | PartKey | None) -> Hop:
    """From the replica of one turn to that of the next, on an engine whose replicas are known."""
    if before is None or now is None:
        return Hop.UNKNOWN
    return Hop.SAME_REPLICA if now == before else Hop.OTHER_REPLICA


def hops(turns: Sequence[TurnFacts]) -> Mapping[Hop, int]:
    """How often a turn ran on the replica of the turn before it, and on another; only what is
    known.
    """
    met = [hop(one.replica, two.replica) for one, two in pairwise(turns)]
    return {kind: met.count(kind) for kind in (Hop.SAME_REPLICA, Hop.OTHER_REPLICA) if kind in met}
