"""The way of a session over the replicas behind a router, in words. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from exporter.analysis.hits.routing import Hop, hops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.session import TurnFacts


def route_in_words(turns: Sequence[TurnFacts]) -> str | None:
    """How many turns met the replica of the turn before; None where no replica is known."""
    known = hops(turns)
    if not known:
        return None
    same, all_known = known.get(Hop.SAME_REPLICA, 0), sum(known.values())
    by = Counter(turn.replica for turn in turns if turn.replica is not None)
    where = ", ".join(f"{count} on {replica}" for replica, count in sorted(by.items()))
    unsure = len(turns) - 1 - all_known
    rest = "" if not unsure else f" For {unsure} of the others this is not certain."
    plural = "turn" if all_known == 1 else "turns"
    return f"{same} of {all_known} {plural} ran on the replica of the turn before ({where}).{rest}"
