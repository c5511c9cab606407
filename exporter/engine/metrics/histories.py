"""The totals of a page that shows one engine or several, told apart by labels.

Each engine has its own history. So an engine that leaves the page lowers no total and is not a
restart, and what an engine counted before it joined is not growth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from exporter.engine.metrics.lookups import Count
from exporter.engine.metrics.totals import Carried, EngineHistory, carry, engine_totals
from exporter.model.engine import OWN_PAGE, replica_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.model.engine import EngineSnapshot, EngineTotals, Histogram, PartKey

_ENGINES_KEPT = 64
"""Histories kept one by one. New pods get new names, so engines that left become one sum."""


@dataclass(frozen=True, slots=True)
class Histories:
    """The histories of all engines that the page has shown; the empty one is `Histories()`.

    `engines` are by the labels that tell them apart. `shown` are those on the latest page. `gone`
    are the totals of engines that are no longer kept one by one, `gone_restarts` their restarts.
    """

    engines: Mapping[PartKey, EngineHistory] = field(default_factory=dict)
    shown: frozenset[PartKey] = frozenset()
    gone: Mapping[str, float | None] = field(default_factory=dict)
    gone_restarts: int = 0

    def replicas(self) -> dict[str, EngineTotals]:
        """The totals of each replica that has a page of its own, by its name."""
        named = {replica_name(key): history for key, history in self.engines.items()}
        return {name: one.totals() for name, one in named.items() if name is not None}

    def of(self, key: PartKey) -> EngineHistory:
        """The history of one engine; an empty one if the page has not shown it."""
        return self.engines.get(key, EngineHistory())

    @property
    def restarts(self) -> int:
        """The restarts of all engines."""
        return self.gone_restarts + sum(one.restarts for one in self.engines.values())

    @property
    def recounts(self) -> int:
        """How often lookups of any kept engine were left out."""
        return sum(one.recounts for one in self.engines.values())

    @property
    def recounted_at(self) -> float | None:
        """When lookups of any engine were last left out, in monotonic seconds."""
        known = [one.recounted_at for one in self.engines.values() if one.recounted_at is not None]
        return max(known, default=None)

    @property
    def count(self) -> Count:
        """How far the growth of the lookups can be trusted: the worst of the engines shown."""
        counts = {self.engines[key].lookups.count for key in self.shown}
        worst_first = (Count.RECOUNTED, Count.OPEN, Count.KNOWN)
        return next((count for count in worst_first if count in counts), Count.KNOWN)

    def histograms(self) -> Mapping[str, Histogram]:
        """The histograms of an engine's own page; empty where that is not shown."""
        own = self.engines[OWN_PAGE].histograms if OWN_PAGE in self.shown else {}
        return {key: carried.total for key, carried in own.items() if carried.last is not None}

    def totals(self) -> EngineTotals:
        """The totals of all engines; None where an engine on the page does not have the number."""
        return engine_totals({name: self._total(name) for name in self._names})

    @property
    def _names(self) -> Iterable[str]:
        return {*self.gone, *(name for one in self.engines.values() for name in one.counts)}

    def _total(self, name: str) -> float | None:
        totals = {key: _total(history, name) for key, history in self.engines.items()}
        if any(totals[key] is None for key in self.shown):
            return None
        return _sum_of_known(self.gone.get(name), *totals.values())

    def with_one(self, key: PartKey, history: EngineHistory) -> Histories:
        """With a new history of one engine."""
        return replace(self, engines={**self.engines, key: history})


def carry_page(
    histories: Histories, snapshot: EngineSnapshot, *, recounts: bool = True
) -> Histories:
    """The histories with one more page. The totals begin with the values of the first page.
    `recounts` is as for `carry`.
    """
    parts = snapshot.parts or {OWN_PAGE: snapshot}
    engines = dict(histories.engines)
    for key, part in parts.items():
        if key in engines:
            engines[key] = carry(engines[key], part, recounts=recounts)
        else:
            first = not histories.engines
            engines[key] = (
                carry(EngineHistory(), part, recounts=recounts) if first else _joined(part)
            )
    return _bounded(replace(histories, engines=engines, shown=frozenset(parts)))


def _joined(part: EngineSnapshot) -> EngineHistory:
    """The history of an engine that joined others: what it counted before is not growth."""
    history = carry(EngineHistory(), part)
    return replace(
        history,
        counts={
            name: Carried(None if count.last is None else 0.0, count.last, count.last)
            for name, count in history.counts.items()
        },
        lookups=history.lookups.from_here(part),
        recounted_at=None,
    )


def _bounded(histories: Histories) -> Histories:
    """With at most `_ENGINES_KEPT` engines: the oldest that left the page become one sum."""
    surplus = len(histories.engines) - _ENGINES_KEPT
    leave = [key for key in histories.engines if key not in histories.shown][: max(0, surplus)]
    if not leave:
        return histories
    left = [histories.engines[key] for key in leave]
    gone = {
        name: _sum_of_known(histories.gone.get(name), *(_total(one, name) for one in left))
        for name in dict.fromkeys((*histories.gone, *(n for one in left for n in one.counts)))
    }
    return Histories(
        {key: one for key, one in histories.engines.items() if key not in leave},
        histories.shown,
        gone,
        histories.gone_restarts + sum(one.restarts for one in left),
    )


def _sum_of_known(*totals: float | None) -> float | None:
    known = [total for total in totals if total is not None]
    return math.fsum(known) if known else None


def _total(history: EngineHistory, name: str) -> float | None:
    count = history.counts.get(name)
    return None if count is None else count.total
