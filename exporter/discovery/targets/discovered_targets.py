"""The current targets of one source, from its answers. Pure.

A missing target stays for a grace period after the first answer without it, so that an engine that
comes and goes keeps its series. A failed query changes nothing, for as long as queries fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Named(Protocol):
    """The part of a target that this module needs."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


class TargetQuota:
    """Limits the targets of all sources together.

    A source holds its share until it takes a new one or is forgotten.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: dict[str, int] = {}

    def take(self, source: str, wanted: int) -> int:
        """How many of `wanted` targets the source may have; this replaces its share."""
        others = sum(count for each, count in self._taken.items() if each != source)
        self._taken[source] = min(wanted, max(0, self.limit - others))
        return self._taken[source]

    def forget(self, source: str) -> None:
        """Free the share of a removed source."""
        self._taken.pop(source, None)


class DiscoveredTargets(Generic[NamedT]):
    """The targets of one source, in the order in which it found them."""

    def __init__(self, source: str, gone_after_seconds: float, quota: TargetQuota) -> None:
        self._source = source
        self.gone_after_seconds = gone_after_seconds
        self._quota = quota
        self._current: dict[str, NamedT] = {}
        self._missing_since: dict[str, float] = {}
        self.above_limit = 0

    @property
    def targets(self) -> tuple[NamedT, ...]:
        """The current targets."""
        return tuple(self._current.values())

    def update(
        self, found: Sequence[NamedT], now: float, unreachable: Collection[str] = ()
    ) -> tuple[NamedT, ...]:
        """Take in an answer at `now`, in monotonic seconds. Returns the current targets.

        `unreachable` is that of `DiscoveryResult`. Above the quota, targets that were current
        before come first.
        """
        by_name = {each.name: each for each in found}
        present = by_name.keys() | set(unreachable)
        self._missing_since = {
            name: self._missing_since.get(name, now) for name in self._current.keys() - present
        }
        kept = {
            name: by_name.get(name, each)
            for name, each in self._current.items()
            if name in present or now - self._missing_since[name] < self.gone_after_seconds
        }
        wanted = kept | {name: each for name, each in by_name.items() if name not in kept}
        allowed = self._quota.take(self._source, len(wanted))
        self.above_limit = len(wanted) - allowed
        self._current = dict(list(wanted.items())[:allowed])
        return self.targets
