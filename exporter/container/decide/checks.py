"""Whether a running engine is dead or slow, by /health, probe sessions and its own counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.policy import SLOWNESS_FACTOR
from exporter.container.decide.records import Cause

if TYPE_CHECKING:
    from exporter.container.decide.activity import Activity
    from exporter.container.decide.observation import Observation, Run
    from exporter.container.decide.policy import Policy


def is_up(run: Run, seen: Observation) -> bool:
    """Whether the server has started: it answered, its log or its image's health check says so,
    or it is too old to be starting.
    """
    logged = seen.log is not None and seen.log.served
    healthy = seen.container is not None and seen.container.health == "healthy"
    return run.ever_ready or run.counts_as_up or logged or healthy


def failed_check(
    run: Run, seen: Observation, now: float, policy: Policy, *, reached: bool
) -> Cause | None:
    """HEALTH_FAILED or PROBES_FAILED if the engine is dead, BUSY if it is slow, ADDRESS if it is up
    and never answered at the target's address (`reached`).

    None if too few checks failed, or while the next page of /metrics may still show work.
    """
    since = run.failing_since
    if run.unreachable and not reached:
        failed = run.health_failures + run.slow_checks
        return Cause.ADDRESS if failed >= policy.settings.health_failures else None
    enough = run.health_failures >= policy.settings.health_failures
    if enough and since is not None and not seen.activity.may_show_work(since, now):
        return Cause.HEALTH_FAILED
    if run.slow_checks and run.slow_checks + run.health_failures >= policy.settings.health_failures:
        return Cause.BUSY
    if run.ever_ready and policy.settings.probe_failures and not seen.suspended:
        return _failed_probes(seen.activity, now, policy.settings.probe_failures)
    return None


def _failed_probes(activity: Activity, now: float, limit: int) -> Cause | None:
    if len(activity.failed) >= limit and _is_silent(activity, now):
        return Cause.PROBES_FAILED
    enough = activity.slow + len(activity.failed) >= limit
    return Cause.BUSY if activity.slow and enough else None


def _is_silent(activity: Activity, now: float) -> bool:
    """Whether it showed no work for longer than SLOWNESS_FACTOR times its slowest turn."""
    since = activity.failed[0]
    needed = SLOWNESS_FACTOR * activity.slowest_seconds
    return now - since >= needed and not activity.may_show_work(since, now)
