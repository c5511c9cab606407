"""vLLM's counters, added up over its restarts, which set them back to 0."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING

from exporter.engine.metrics.histograms import carry_histograms
from exporter.engine.metrics.lookups import Count, Lookups
from exporter.model.engine import EngineTotals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.engine.metrics.histograms import CarriedHistogram
    from exporter.model.engine import EngineSnapshot

FASTEST_START_SECONDS = 30.0
"""No vLLM starts faster, because it loads a model and warms up."""
_LOOKUPS = ("queried_tokens", "hit_tokens", "external_queried_tokens", "external_hit_tokens")
_NUMBERS = tuple(each.name for each in fields(EngineTotals) if each.name != "cached_by_source")
_SOURCE = "cached_by_source "
_STARTS_KEPT = 32  # start times remembered; more replicas behind one URL are detected later


class SavedSource(Enum):
    """The field of a snapshot that counts the prompt tokens that the engine's own cache saved.

    It is the source `local_cache_hit` if the engine has it (since 0.16), else the prefix cache's
    hits. The choice is made when the engine is first seen and again after each restart, because the
    version may have changed. It is never changed in between: a total must not mix two counters.
    """

    LOCAL_CACHED_TOKENS = "local_cached_tokens"
    HIT_TOKENS = "hit_tokens"


@dataclass(frozen=True, slots=True)
class Carried:
    """One counter. `total` is None until it is first known, and never falls.

    `last` is the last value of the running process. `counted` is the part of it that is already in
    the total or was left out for good; None: leave out the whole first value.
    """

    total: float | None = None
    last: float | None = None
    counted: float | None = 0.0

    def fell_to(self, value: float | None) -> bool:
        """Whether `value` is lower than the last one, so the counter started again."""
        return value is not None and self.last is not None and value < self.last

    def after(self, value: float | None, *, from_zero: bool, count: Count = Count.KNOWN) -> Carried:
        """With the next value, counted from 0 if `from_zero`; a value of None keeps the total.

        Open growth waits for a later reading. Recounted growth is left out for good.
        """
        counted = 0.0 if from_zero else self.counted
        if value is None:
            return Carried(self.total, None if from_zero else self.last, counted)
        if count is Count.OPEN:
            return Carried(self.total, value, counted)
        if count is Count.RECOUNTED:
            return Carried(self.total, value, value)
        if counted is None:
            return Carried(self.total or 0.0, value, value)
        return Carried((self.total or 0.0) + (value - counted), value, value)


@dataclass(frozen=True, slots=True)
class EngineHistory:
    """The sum of one engine's snapshots so far; the empty one is `EngineHistory()`.

    `engine_totals` reads the keys of `counts`. `recounted_at` is when lookups were last left out
    because the prompts do not explain them, `recounts` is how often that happened.
    """

    counts: Mapping[str, Carried] = field(default_factory=dict)
    saved_source: SavedSource | None = None
    process_start_time: float | None = None
    earlier_starts: tuple[float, ...] = ()
    restarts: int = 0
    fell_at: float | None = None  # when a counter was last seen to fall
    lookups: Lookups = field(default_factory=Lookups)
    recounted_at: float | None = None
    recounts: int = 0
    histograms: Mapping[str, CarriedHistogram] = field(default_factory=dict)

    def totals(self) -> EngineTotals:
        """The counters, each None until it was first seen."""
        return engine_totals({name: count.total for name, count in self.counts.items()})


def engine_totals(totals: Mapping[str, float | None]) -> EngineTotals:
    """The totals by the keys of `EngineHistory.counts`."""
    return EngineTotals(
        **{name: totals.get(name) for name in _NUMBERS},
        cached_by_source={
            name.removeprefix(_SOURCE): total
            for name, total in sorted(totals.items())
            if name.startswith(_SOURCE) and total is not None
        },
    )


def carry(
    history: EngineHistory, snapshot: EngineSnapshot, *, recounts: bool = True
) -> EngineHistory:
    """The history with one more snapshot, which must be of the same engine and later. `recounts`:
    the engine's version may count lookups twice (lookups.py).

    Every total starts with the engine's own value, so it equals the server's counter until the
    first restart. From then on it is the server's counter plus what was counted before. What an
    engine counts between its last snapshot and its end is lost.

    The counters start again from 0 if `process_start_time` changed, or if any of them fell: one
    process holds them all. A counter that falls while the start time stays the same is not a
    restart: vLLM makes new counters when it is scaled in place.
    """
    before, now = history.process_start_time, snapshot.process_start_time
    has_fallen = _fell(history, snapshot)
    restarted = has_fallen if before is None or now is None else before != now
    from_zero = restarted or has_fallen
    source = history.saved_source
    if source is None or from_zero:
        source = _source(snapshot)
    lookups = (Lookups() if from_zero else history.lookups).after(snapshot, recounts=recounts)
    recounted = lookups.count is Count.RECOUNTED
    ended = (before,) if restarted and before is not None else ()
    values = _values(snapshot, source)
    return EngineHistory(
        counts={
            name: history.counts.get(name, Carried()).after(
                values.get(name), from_zero=from_zero, count=_count_of(name, source, lookups)
            )
            for name in dict.fromkeys((*history.counts, *values))
        },
        saved_source=source,
        # After a restart that only a fallen counter shows, the start time is unknown. The old one
        # would make a second restart of the new one once that is seen.
        process_start_time=before if now is None and not restarted else now,
        earlier_starts=(*history.earlier_starts, *ended)[-_STARTS_KEPT:],
        restarts=history.restarts + restarted,
        fell_at=snapshot.at if has_fallen else history.fell_at,
        lookups=lookups,
        recounted_at=snapshot.at if recounted else history.recounted_at,
        recounts=history.recounts + recounted,
        histograms=carry_histograms(history.histograms, snapshot.histograms, from_zero=from_zero),
    )


def _count_of(name: str, source: SavedSource | None, lookups: Lookups) -> Count:
    """How far the growth of a total can be trusted.

    Lookups that the prompts do not explain (lookups.py) are left out, and their hits, too.
    """
    of_hits = name == "saved_tokens" and source is SavedSource.HIT_TOKENS
    return lookups.count if of_hits or name in _LOOKUPS else Count.KNOWN


def came_back(history: EngineHistory, snapshot: EngineSnapshot) -> bool:
    """Whether the snapshot is of a process that another one had already replaced.

    A process that ended does not come back, so several processes answer at this URL in turn. The
    sum of their counters would be wrong.
    """
    start = snapshot.process_start_time
    return start != history.process_start_time and start in history.earlier_starts


def alternates(history: EngineHistory, snapshot: EngineSnapshot) -> bool:
    """Whether counters fall, rise and fall again faster than any engine can start twice.

    For processes without a start time: several of them answer in turn. Such a snapshot must not go
    into the totals; use `remember_fall` in place of `carry`.
    """
    if history.process_start_time is not None or snapshot.process_start_time is not None:
        return False
    if history.fell_at is None or snapshot.at - history.fell_at >= FASTEST_START_SECONDS:
        return False
    return _fell(history, snapshot)


def remember_fall(history: EngineHistory, snapshot: EngineSnapshot) -> EngineHistory:
    """The history with the time of the fall, and without the fallen values."""
    return replace(history, fell_at=snapshot.at)


def _fell(history: EngineHistory, snapshot: EngineSnapshot) -> bool:
    values = _values(snapshot, history.saved_source)
    return any(count.fell_to(values.get(name)) for name, count in history.counts.items())


def _source(snapshot: EngineSnapshot) -> SavedSource | None:
    if snapshot.local_cached_tokens is not None:
        return SavedSource.LOCAL_CACHED_TOKENS
    return None if snapshot.hit_tokens is None else SavedSource.HIT_TOKENS


def _values(snapshot: EngineSnapshot, source: SavedSource | None) -> dict[str, float | None]:
    saved = None if source is None else getattr(snapshot, source.value)
    numbers = {
        name: saved if name == "saved_tokens" else getattr(snapshot, name) for name in _NUMBERS
    }
    return numbers | {_SOURCE + name: n for name, n in snapshot.cached_by_source.items()}
