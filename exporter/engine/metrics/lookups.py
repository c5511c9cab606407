"""Whether the prefix cache's counters can be trusted, by comparison with the prompt tokens.

vLLM looks a prompt up once, before it computes it, so over time it looks up no more tokens than its
prompts have. But up to 0.26 it counts a request that waits for room in the KV cache again at each
step (`v1/core/kv_cache_manager.py`, `get_computed_blocks`): on a crowded engine a thousand times
too much. vLLM counts the lookup when it admits a prompt, and the prompt when its first token is
there. So lookups can be ahead of the prompts for a while, and for good where a request was
cancelled in between. Such a lookup did happen, once. So lookups that are ahead for good count if no
request can have waited for room, or if the version counts none twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from exporter.model.engine import release

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot

TOLERANCE = 0.02
"""The share by which lookups may exceed the prompt tokens: a request that is cancelled after its
lookup and before its first token never counts as a prompt."""
LONGEST_OPEN_SECONDS = 600.0
"""The longest that a prompt can take from its lookup to its first token."""

_COUNTS_ONCE_SINCE = (27, 0)  # vLLM 0.27 counts a lookup when the request is admitted


def may_recount(version: str | None) -> bool:
    """Whether this version of vLLM may count the lookup of a waiting request again."""
    found = release(version)
    return found is None or found < _COUNTS_ONCE_SINCE


class Count(Enum):
    """How far the growth of the lookups since the last settled reading can be trusted."""

    KNOWN = auto()
    OPEN = auto()  # ahead of the prompts, but these may still follow
    RECOUNTED = auto()  # more than the prompts can explain


@dataclass(frozen=True, slots=True)
class Lookups:
    """One engine process: its counters at the last settled reading, and its latest ones.

    A process begins with zeros, so the rule also covers what it counted before the first reading.
    `held` are the tokens of running requests in the KV cache, None if unknown. `open_since` is when
    the lookups got ahead of the prompts.
    """

    queried: float = 0.0
    prompt: float = 0.0
    generated: float = 0.0
    held: float | None = 0.0
    last: tuple[float | None, ...] = ()
    open_since: float | None = None
    count: Count = Count.KNOWN

    def after(self, snapshot: EngineSnapshot, *, recounts: bool = True) -> Lookups:
        """With the next reading of the same process. `recounts`: this version may recount."""
        queried, prompt = snapshot.queried_tokens, snapshot.prompt_tokens
        if queried is None or not prompt:  # there is nothing to compare
            known = self.queried if queried is None else queried
            return replace(_settled(snapshot), queried=known, prompt=prompt or self.prompt)
        ahead = queried - self.queried - (prompt - self.prompt) * (1 + TOLERANCE)
        if ahead <= 0:
            return _settled(snapshot)
        if self._explained(ahead, snapshot):
            since = snapshot.at if self.open_since is None else self.open_since
            return replace(self, last=_counters(snapshot), open_since=since, count=Count.OPEN)
        cancelled = not recounts or self._had_room(snapshot)
        return _settled(snapshot, Count.KNOWN if cancelled else Count.RECOUNTED)

    def from_here(self, snapshot: EngineSnapshot) -> Lookups:
        """Settled at this reading, without a look at what was counted before it."""
        return _settled(snapshot)

    def _explained(self, ahead: float, snapshot: EngineSnapshot) -> bool:
        """Whether prompts without a first token can explain that the lookups are `ahead`."""
        since, held = self.open_since, _capacity(snapshot)
        if since is not None and snapshot.at - since >= LONGEST_OPEN_SECONDS:
            return False
        # A prompt that is being computed is in the KV cache, so it is no longer than that.
        return not (held is not None and ahead > held) and not self._is_still(snapshot)

    def _had_room(self, snapshot: EngineSnapshot) -> bool:
        """Whether no request can have waited for room in the KV cache since the settled reading.

        All that the cache held meanwhile was held then, looked up since, or generated since. A
        sequence fills whole blocks, so it may take twice its tokens. With several ranks all may
        have been on one.
        """
        capacity = snapshot.cache.capacity_tokens if snapshot.cache else None
        queried, generated = snapshot.queried_tokens, snapshot.generation_tokens
        if capacity is None or self.held is None or queried is None or generated is None:
            return False
        grown = queried - self.queried + generated - self.generated
        return self.held + 2 * grown <= capacity

    def _is_still(self, snapshot: EngineSnapshot) -> bool:
        """Whether nothing runs or waits, and no counter grew since the last reading."""
        idle = snapshot.requests_running == 0 and not snapshot.requests_waiting
        return idle and self.last == _counters(snapshot)


def _settled(snapshot: EngineSnapshot, count: Count = Count.KNOWN) -> Lookups:
    used, capacity = snapshot.kv_cache_usage_ratio, _capacity(snapshot)
    return Lookups(
        queried=snapshot.queried_tokens or 0.0,
        prompt=snapshot.prompt_tokens or 0.0,
        generated=snapshot.generation_tokens or 0.0,
        held=None if used is None or capacity is None else used * capacity,
        last=_counters(snapshot),
        count=count,
    )


def _counters(snapshot: EngineSnapshot) -> tuple[float | None, ...]:
    return (snapshot.queried_tokens, *snapshot.work_counters)


def _capacity(snapshot: EngineSnapshot) -> float | None:
    capacity = snapshot.cache.capacity_tokens if snapshot.cache else None
    return None if capacity is None else capacity * max(1, snapshot.ranks)
