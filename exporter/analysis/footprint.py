"""What the probe leaves in an engine's cache, and what users do meanwhile. Pure.

Freed blocks are the newest of vLLM's LRU, so each new block of the probe takes the place of the
oldest one in the cache, which is often a user's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.analysis.own_share import OwnShare
    from exporter.model.engine import CacheConfig, EngineView

HOUR = 3600.0
_APART_SECONDS = 50.0
"""Readings that follow sooner are not kept."""
_OLD_APART_SECONDS = 300.0
"""The same for readings that only show how much users asked within the hour."""
BUSY_SECONDS = 600.0
"""Users are busy if their requests ran at more than half of the readings of this time."""


def written_tokens(
    prompt: int, cached: int | None, answer: int | None, cache: CacheConfig | None
) -> int:
    """The new KV that one request leaves in the cache, in tokens of whole blocks.

    `cached` are the prompt's tokens from the engine's own cache; if that is unknown, the whole
    prompt counts. An engine without prefix caching keeps nothing.
    """
    if cache is not None and cache.prefix_caching is False:
        return 0
    block = (cache.block_size if cache is not None else None) or 1
    return -(-max(0, prompt - (cached or 0) + (answer or 0)) // block) * block


@dataclass(frozen=True, slots=True)
class LastHour:
    """Amounts with their times, in order. Those older than an hour are dropped."""

    amounts: tuple[tuple[float, int], ...] = ()

    def plus(self, amount: int, now: float) -> LastHour:
        """With an amount of `now`, in monotonic seconds."""
        kept = tuple(one for one in self.amounts if one[0] > now - HOUR)
        return LastHour((*kept, (now, amount)) if amount else kept)

    def total(self, now: float, seconds: float = HOUR) -> int:
        """The sum of the last so many `seconds`, at most an hour."""
        return sum(amount for at, amount in self.amounts if at > now - seconds)

    def seconds_until_room(self, amount: int, limit: float, seconds: float, now: float) -> float:
        """The wait until `amount` and the sum of the last so many `seconds` are within `limit`,
        if nothing comes in between. An `amount` above `limit` waits until there is nothing else.
        """
        latest = [one for one in self.amounts if one[0] > now - seconds]
        total = amount + sum(tokens for _, tokens in latest)
        wait = 0.0
        for at, tokens in latest:
            if total <= limit:
                break
            total -= tokens
            wait = at + seconds - now
        return wait


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the probe wrote into the cache within the last hour, in tokens.

    `capacity` is that of one rank; None is unknown. `limit` is the most that the settings allow per
    hour; None: no limit, or the capacity is unknown.
    """

    written: int
    capacity: int | None
    limit: float | None = None

    @property
    def turnover(self) -> float | None:
        """The share of the cache that was rewritten; None if the capacity is unknown."""
        return self.written / self.capacity if self.capacity else None

    @property
    def limit_ratio(self) -> float | None:
        """The most of the cache that may be rewritten per hour; None as `limit`."""
        return self.limit / self.capacity if self.limit and self.capacity else None


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    users: float  # prompt tokens that the engine computed for users since its counters began
    own: int  # and for the exporter
    running: bool


@dataclass(frozen=True, slots=True)
class UsersTraffic:
    """What users asked of an engine, by readings of the last hour without an own request.

    `last_at` is when users' counters last grew, in monotonic seconds: at first the first reading.
    None without a reading.
    """

    readings: tuple[_Reading, ...] = ()
    last_at: float | None = None
    _asked: float | None = None

    def after(self, view: EngineView | None, own: OwnShare, now: float) -> UsersTraffic:
        """With one more reading, if it counts all own requests and no others of the exporter."""
        seen = view.snapshot if view is not None and view.failure is None else None
        if view is None or seen is None or not own.quiet(now):
            return self
        totals = view.totals
        prompts, saved = totals.prompt_tokens, totals.saved_tokens
        if prompts is None:
            prompts, saved = totals.queried_tokens, totals.hit_tokens
        if prompts is None:
            return self
        asked = prompts - own.prompt_tokens
        users = asked - ((saved or 0.0) - (own.hit_tokens - own.external_tokens))
        running = bool(seen.requests_running) or bool(seen.requests_waiting)
        grew = self._asked is None or asked > self._asked or running
        found = replace(
            self,
            last_at=now if grew else self.last_at,
            _asked=asked if self._asked is None else max(asked, self._asked),
        )
        if self.readings and now - self.readings[-1].at < _APART_SECONDS:
            return found
        reading = _Reading(now, users, own.prompt_tokens - own.hit_tokens, running)
        return replace(found, readings=(*_kept(self.readings, now), reading))

    def quiet_for(self, now: float) -> float:
        """Seconds since users were last seen; 0 if that is unknown."""
        return 0.0 if self.last_at is None else now - self.last_at

    def busy(self, now: float) -> bool:
        """Whether users' requests ran at more than half of the latest readings."""
        latest = [one.running for one in self.readings if one.at > now - BUSY_SECONDS]
        return len(latest) > 1 and sum(latest) * 2 > len(latest)

    def share_with(self, tokens: int) -> float:
        """The exporter's share of the prefill of the last hour if it computed so many more."""
        if not self.readings:
            return 0.0
        first, last = self.readings[0], self.readings[-1]
        own = last.own - first.own + tokens
        everything = own + max(0.0, last.users - first.users)
        return own / everything if everything else 0.0


def _kept(readings: tuple[_Reading, ...], now: float) -> list[_Reading]:
    """Those of the last hour: all that show whether users are busy, and fewer of those before."""
    kept: list[_Reading] = []
    for one in readings:
        apart = 0.0 if one.at > now - BUSY_SECONDS else _OLD_APART_SECONDS
        if one.at > now - HOUR and not (kept and one.at - kept[-1].at < apart):
            kept.append(one)
    return kept
