"""Which targets of a source stand, from what it answered at each look. Pure.

A target that is missing stands for a grace from the first answer that lacks it: engines that
flicker keep their series. An answer that does not come changes nothing, for as long as it fails to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Named(Protocol):
    """A target, as far as it matters here."""

    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)


class TargetQuota:
    """How many targets all sources together may have. Each holds what it took until it asks anew,
    or is forgotten.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken: dict[str, int] = {}

    def take(self, source: str, wanted: int) -> int:
        """How many of the targets that it wants a source may have, those that it had included."""
        others = sum(count for each, count in self._taken.items() if each != source)
        self._taken[source] = min(wanted, max(0, self.limit - others))
        return self._taken[source]

    def forget(self, source: str) -> None:
        """The source is gone."""
        self._taken.pop(source, None)


class DiscoveredTargets(Generic[NamedT]):
    """The targets of one source, in the order in which they came."""

    def __init__(self, source: str, gone_after_seconds: float, quota: TargetQuota) -> None:
        self._source = source
        self.gone_after_seconds = gone_after_seconds
        self._quota = quota
        self._standing: dict[str, NamedT] = {}
        self._missing_since: dict[str, float] = {}
        self.above_limit = 0

    @property
    def targets(self) -> tuple[NamedT, ...]:
        """Those that stand."""
        return tuple(self._standing.values())

    def answered(
        self, found: Sequence[NamedT], now: float, still: Collection[str] = ()
    ) -> tuple[NamedT, ...]:
        """The source answered at `now`, in monotonic seconds. Returns those that stand.

        `still` names what is there though it is not in `found`; see `records.Look`. Where there are
        more than may be, those that stood before go first.
        """
        by_name = {each.name: each for each in found}
        there = by_name.keys() | set(still)
        self._missing_since = {
            name: self._missing_since.get(name, now) for name in self._standing.keys() - there
        }
        kept = {
            name: by_name.get(name, each)
            for name, each in self._standing.items()
            if name in there or now - self._missing_since[name] < self.gone_after_seconds
        }
        wanted = kept | {name: each for name, each in by_name.items() if name not in kept}
        allowed = self._quota.take(self._source, len(wanted))
        self.above_limit = len(wanted) - allowed
        self._standing = dict(list(wanted.items())[:allowed])
        return self.targets
