"""Whether an engine works, by its own counters and by the sessions played against it. Pure.

A restart drops every request, so an engine that works is not restarted, however slow it is. Its
counters of tokens tell that it works, and so does its KV cache: while a long prompt is computed in
pieces, only that moves.

Two pages are compared by when they were asked for, not by when they came: what is new on the later
one was done after the earlier one was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.container.decide.policy import PAGES_WITHIN_SECONDS, speaks_of_illness

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot, EngineView
    from exporter.model.session import SessionResult

_Work = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """What is known of an engine's work in this run. Times are monotonic seconds; None: never.

    `asked_at` and `asked_before` are when the two latest pages of its /metrics were asked for that
    could be read, `readable` whether the latest reading was one. `moved_from` is when the page was
    asked for after which it is known to have worked last. `asleep` is as the latest page says.

    `failed` holds when each of the sessions began that failed in a row as of an ill engine, no work
    having been seen since. `slow` counts those of the same row in which work was seen. Sessions
    that began before `counts_from` are left out: the engine was not ready, or at rest.

    `slowest_seconds` is the longest turn that it finished, in any run.
    """

    work: _Work | None = None
    asked_at: float | None = None
    asked_before: float | None = None
    readable: bool = False
    moved_from: float | None = None
    asleep: bool = False
    failed: tuple[float, ...] = ()
    slow: int = 0
    counts_from: float | None = None
    slowest_seconds: float = 0.0

    def worked_since(self, since: float) -> bool:
        """Whether it is known to have worked after that time."""
        return self.moved_from is not None and self.moved_from >= since

    def may_tell_more(self, since: float, now: float) -> bool:
        """Whether a page that is still to come may show that it worked after `since`.

        It takes two pages to see work. Where they cannot be read, or come too seldom, they do not
        keep an engine from being restarted that fails in every other way.
        """
        if not self.readable or now - since >= PAGES_WITHIN_SECONDS:
            return False
        return self.asked_before is None or self.asked_before < since


def page_read(activity: Activity, view: EngineView) -> Activity:
    """Fold in one reading of the engine's /metrics, good or bad."""
    snapshot = view.snapshot
    if snapshot is None:
        return replace(activity, readable=False, asleep=False)
    work = _work(snapshot)
    moved_from = activity.moved_from
    if activity.work is not None and _differ(activity.work, work):
        moved_from = activity.asked_at
    read = replace(
        activity,
        work=work,
        asked_at=snapshot.at - snapshot.scrape_seconds,
        asked_before=activity.asked_at,
        readable=True,
        moved_from=moved_from,
        asleep=snapshot.asleep is True,
    )
    if read.asleep:
        return at_rest(read, snapshot.at)
    still = tuple(began for began in read.failed if not read.worked_since(began))
    return replace(read, failed=still, slow=read.slow + len(read.failed) - len(still))


def session_ended(activity: Activity, result: SessionResult, now: float) -> Activity:
    """Fold in one session. A failure that does not speak of an ill engine changes nothing."""
    turns = [turn.latency_seconds for turn in result.turns]
    activity = replace(activity, slowest_seconds=max([activity.slowest_seconds, *turns]))
    if result.failure is None:
        return replace(activity, failed=(), slow=0)
    began = now - result.duration_seconds
    ignored = activity.counts_from is None or began < activity.counts_from
    if ignored or not speaks_of_illness(result.failure):
        return activity
    if activity.worked_since(began):
        return replace(activity, slow=activity.slow + 1)
    return replace(activity, failed=(*activity.failed, began))


def at_rest(activity: Activity, now: float) -> Activity:
    """It sleeps, is paused or is being scaled: what it did not answer until now is no failure."""
    return replace(activity, failed=(), slow=0, counts_from=now)


def became_ready(activity: Activity, now: float) -> Activity:
    """From now on it can answer."""
    return replace(activity, failed=(), slow=0, counts_from=now)


def new_run(activity: Activity) -> Activity:
    """Another process: only how slow the engine can be is still known."""
    return Activity(slowest_seconds=activity.slowest_seconds)


def _work(snapshot: EngineSnapshot) -> _Work:
    return (*snapshot.work_counters, snapshot.kv_cache_usage_ratio)


def _differ(earlier: _Work, later: _Work) -> bool:
    return any(
        None not in (before, after) and before != after
        for before, after in zip(earlier, later, strict=True)
    )
