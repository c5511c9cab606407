"""Whether an engine works, by its own counters and by probe sessions.

A restart drops every request, so a working engine is not restarted, however slow it is. Its token
counters show work, and so does its KV cache usage: during a chunked prefill only that changes.

Pages of /metrics are compared by the time of their request, not of their answer: what is new on
the later page happened after the request for the earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.container.decide.policy import MAX_PAGE_WAIT_SECONDS, is_engine_failure

if TYPE_CHECKING:
    from exporter.model.engine import EngineSnapshot, EngineView
    from exporter.model.session import SessionResult

_Work = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Activity:
    """What is known of an engine's work in this run. Times are monotonic seconds; None: never.

    `requested_at` and `previous_requested_at` are the request times of the two latest readable
    pages of its /metrics; `readable`: the latest page was one of them. The engine worked after
    `last_work_at`, the request time of a page. `asleep` is from the latest page.

    `failed` holds the start times of sessions that failed in a row and show a broken engine, with
    no work since. `slow` counts sessions of the same row during which the engine worked. Sessions
    that started before `counts_from` do not count: the engine was not ready, or suspended.

    `slowest_seconds` is its longest finished turn, in any run.
    """

    work: _Work | None = None
    requested_at: float | None = None
    previous_requested_at: float | None = None
    readable: bool = False
    last_work_at: float | None = None
    asleep: bool = False
    failed: tuple[float, ...] = ()
    slow: int = 0
    counts_from: float | None = None
    slowest_seconds: float = 0.0

    def worked_since(self, since: float) -> bool:
        """Whether it worked after that time, as far as is known."""
        return self.last_work_at is not None and self.last_work_at >= since

    def may_show_work(self, since: float, now: float) -> bool:
        """Whether the next page may show that it worked after `since`.

        False where pages cannot be read or come too rarely: then they do not delay a restart.
        """
        if not self.readable or now - since >= MAX_PAGE_WAIT_SECONDS:
            return False
        return self.previous_requested_at is None or self.previous_requested_at < since


def page_read(activity: Activity, view: EngineView) -> Activity:
    """Add one scrape of the engine's /metrics, failed or not."""
    snapshot = view.snapshot
    if snapshot is None:
        return replace(activity, readable=False, asleep=False)
    work = _work(snapshot)
    last_work_at = activity.last_work_at
    if activity.work is not None and _differ(activity.work, work):
        last_work_at = activity.requested_at
    read = replace(
        activity,
        work=work,
        requested_at=snapshot.at - snapshot.scrape_seconds,
        previous_requested_at=activity.requested_at,
        readable=True,
        last_work_at=last_work_at,
        asleep=snapshot.asleep is True,
    )
    if read.asleep:
        return without_failures(read, snapshot.at)
    still = tuple(started_at for started_at in read.failed if not read.worked_since(started_at))
    return replace(read, failed=still, slow=read.slow + len(read.failed) - len(still))


def session_ended(activity: Activity, result: SessionResult, now: float) -> Activity:
    """Add one session. A failure that does not show a broken engine changes nothing."""
    turns = [turn.latency_seconds for turn in result.turns]
    activity = replace(activity, slowest_seconds=max([activity.slowest_seconds, *turns]))
    if result.failure is None:
        return replace(activity, failed=(), slow=0)
    started_at = now - result.duration_seconds
    ignored = activity.counts_from is None or started_at < activity.counts_from
    if ignored or not is_engine_failure(result.failure):
        return activity
    if activity.worked_since(started_at):
        return replace(activity, slow=activity.slow + 1)
    return replace(activity, failed=(*activity.failed, started_at))


def without_failures(activity: Activity, now: float) -> Activity:
    """The engine became ready or is suspended: failures count from `now` on."""
    return replace(activity, failed=(), slow=0, counts_from=now)


def new_run(activity: Activity) -> Activity:
    """A new engine process: only `slowest_seconds` stays."""
    return Activity(slowest_seconds=activity.slowest_seconds)


def _work(snapshot: EngineSnapshot) -> _Work:
    return (*snapshot.work_counters, snapshot.kv_cache_usage_ratio)


def _differ(earlier: _Work, later: _Work) -> bool:
    return any(
        None not in (before, after) and before != after
        for before, after in zip(earlier, later, strict=True)
    )
