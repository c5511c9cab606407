"""vLLM's counters carried over its restarts, which set them back to 0 (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from exporter.engine.metrics.lookups import Count, Lookups
from exporter.model.engine import EngineTotals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.model.engine import EngineSnapshot

FASTEST_START_SECONDS = 30.0
"""No vLLM starts faster: it loads a model, and warms up."""
_LOOKUPS = ("queried_tokens", "hit_tokens")
_STARTS_KEPT = 32  # more replicas than this behind one URL are found out all the same, later


class SavedSource(Enum):
    """Which of vLLM's counters says how many prompt tokens were not computed."""

    CACHED_PROMPT_TOKENS = auto()
    HIT_TOKENS = auto()


@dataclass(frozen=True, slots=True)
class Carried:
    """One counter. `total` is None until first known, and never smaller than before.

    `last` is what the running process said last, `counted` what of that is in the total or was
    left out of it: None where all that it says first is to be left out.
    """

    total: float | None = None
    last: float | None = None
    counted: float | None = 0.0

    def fell_to(self, value: float | None) -> bool:
        """Whether a process that counts on could not have said `value`."""
        return value is not None and self.last is not None and value < self.last

    def after(self, value: float | None, *, anew: bool, count: Count = Count.KNOWN) -> Carried:
        """With the next value, counted from 0 again where `anew`; None keeps the total.

        Growth that is open waits for a later reading; recounted growth is left out for good.
        """
        counted = 0.0 if anew else self.counted
        if value is None:
            return Carried(self.total, None if anew else self.last, counted)
        if count is Count.OPEN:
            return Carried(self.total, value, counted)
        if count is Count.RECOUNTED:
            return Carried(self.total, value, value)
        if counted is None:
            return Carried(self.total or 0.0, value, value)
        return Carried((self.total or 0.0) + (value - counted), value, value)


@dataclass(frozen=True, slots=True)
class EngineHistory:
    """What one engine's snapshots have added up to so far. The empty one is `EngineHistory()`.

    `counts` has the fields of `EngineTotals` as its keys. `recounted_at` is when lookups were last
    left out because they were more than the prompts explain, `recounts` how often.
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

    def totals(self) -> EngineTotals:
        """The counters, each None until it was first seen."""
        return EngineTotals(**{name: count.total for name, count in self.counts.items()})


def carry(history: EngineHistory, snapshot: EngineSnapshot) -> EngineHistory:
    """The history with one more snapshot, which must be of the same engine and later.

    Every total starts at the engine's own value, so it agrees with the server's counter until the
    server restarts; from then on it is the server's counter plus what was counted before. What an
    engine counted between the last snapshot and its end is lost.

    The counters start anew when `process_start_time` has changed, or when any of them fell: then
    all of them did, since one process holds them all. One that fell while the start time is
    known to be the same (vLLM makes its counters anew when it is scaled up in place) is no
    restart.

    `saved_tokens` is `prompt_tokens_cached` where the engine has it (0.16 and later), else the
    prefix cache's hits, which leave out what an external cache supplied. An engine's source is
    settled when it is first seen and again at each restart, where the version may have changed,
    and never in between: two counters must not be spliced.

    Lookups that the prompts do not explain (lookups.py) are left out, with the hits among them.
    """
    before, now = history.process_start_time, snapshot.process_start_time
    both_known = before is not None and now is not None
    values = _values(snapshot, history.saved_source)
    has_fallen = _fell(history, snapshot)
    restarted = before != now if both_known else has_fallen
    anew = restarted or has_fallen
    source = history.saved_source
    if source is None or anew:
        source = _source(snapshot)
        values = _values(snapshot, source)
    lookups = (Lookups() if anew else history.lookups).after(snapshot)
    held = {*_LOOKUPS, *(("saved_tokens",) if source is SavedSource.HIT_TOKENS else ())}
    return EngineHistory(
        counts={
            name: history.counts.get(name, Carried()).after(
                value, anew=anew, count=lookups.count if name in held else Count.KNOWN
            )
            for name, value in values.items()
        },
        saved_source=source,
        # Unknown after a restart that only a fallen counter told: keeping the old start time would
        # make a second restart of the new one once it is seen.
        process_start_time=before if now is None and not restarted else now,
        earlier_starts=(
            (*history.earlier_starts, before)[-_STARTS_KEPT:]
            if restarted and before is not None
            else history.earlier_starts
        ),
        restarts=history.restarts + restarted,
        fell_at=snapshot.at if has_fallen else history.fell_at,
        lookups=lookups,
        recounted_at=snapshot.at if lookups.count is Count.RECOUNTED else history.recounted_at,
        recounts=history.recounts + (lookups.count is Count.RECOUNTED),
    )


def returned(history: EngineHistory, snapshot: EngineSnapshot) -> bool:
    """Whether the snapshot is of a process that another had already replaced.

    No process comes back: two or more answer at this URL in turn, and adding up their counters
    would make nonsense of the totals.
    """
    start = snapshot.process_start_time
    return start != history.process_start_time and start in history.earlier_starts


def alternates(history: EngineHistory, snapshot: EngineSnapshot) -> bool:
    """Whether counters fall and rise and fall again faster than any engine can be started twice.

    For processes that do not say when they started: two or more of them answer in turn. The one
    snapshot is not to be carried; `fell` is.
    """
    if history.process_start_time is not None or snapshot.process_start_time is not None:
        return False
    if history.fell_at is None or snapshot.at - history.fell_at >= FASTEST_START_SECONDS:
        return False
    return _fell(history, snapshot)


def fell(history: EngineHistory, snapshot: EngineSnapshot) -> EngineHistory:
    """The history that remembers only when a counter fell, and not to what."""
    return replace(history, fell_at=snapshot.at)


def _fell(history: EngineHistory, snapshot: EngineSnapshot) -> bool:
    values = _values(snapshot, history.saved_source)
    return any(count.fell_to(values[name]) for name, count in history.counts.items())


def _source(snapshot: EngineSnapshot) -> SavedSource | None:
    if snapshot.cached_prompt_tokens is not None:
        return SavedSource.CACHED_PROMPT_TOKENS
    return None if snapshot.hit_tokens is None else SavedSource.HIT_TOKENS


def _values(snapshot: EngineSnapshot, source: SavedSource | None) -> dict[str, float | None]:
    saved = {
        None: None,
        SavedSource.CACHED_PROMPT_TOKENS: snapshot.cached_prompt_tokens,
        SavedSource.HIT_TOKENS: snapshot.hit_tokens,
    }
    return {
        "queried_tokens": snapshot.queried_tokens,
        "hit_tokens": snapshot.hit_tokens,
        "saved_tokens": saved[source],
        "prompt_tokens": snapshot.prompt_tokens,
        "generation_tokens": snapshot.generation_tokens,
        "preemptions": snapshot.preemptions,
    }
