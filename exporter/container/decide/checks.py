"""What the checks of a running engine say: /health, the probe sessions, its own counters. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.container.decide.policy import SLACK
from exporter.container.decide.records import Cause

if TYPE_CHECKING:
    from exporter.container.decide.activity import Activity
    from exporter.container.decide.observation import Observation, Run
    from exporter.container.decide.policy import Policy


def is_up(run: Run, seen: Observation) -> bool:
    """Whether the server can answer: it did, it said so, or it is too old to be starting.

    It says so in its log, or to the check of health that its image brings along.
    """
    said = seen.log is not None and seen.log.served
    healthy = seen.container is not None and seen.container.health == "healthy"
    return run.ever_ready or run.past_start or said or healthy


def failed_check(
    run: Run, seen: Observation, now: float, policy: Policy, *, reached: bool
) -> Cause | None:
    """HEALTH_FAILED or PROBES_FAILED where the engine is dead, BUSY where it is only slow.

    ADDRESS where it is up and was never `reached`: what was not met once cannot be called ill.
    None where no check failed, or not often enough, or where it is not known yet which it is.
    """
    since = run.failing_since
    if run.unreachable and not reached:
        looks = run.health_failures + run.slow_looks
        return Cause.ADDRESS if looks >= policy.settings.health_failures else None
    enough = run.health_failures >= policy.settings.health_failures
    if enough and since is not None and not seen.activity.may_tell_more(since, now):
        return Cause.HEALTH_FAILED
    if run.slow_looks and run.slow_looks + run.health_failures >= policy.settings.health_failures:
        return Cause.BUSY
    if run.ever_ready and policy.settings.probe_failures and not seen.at_rest:
        return _failed_probes(seen.activity, now, policy.settings.probe_failures)
    return None


def _failed_probes(activity: Activity, now: float, limit: int) -> Cause | None:
    if len(activity.failed) >= limit and _is_silent(activity, now):
        return Cause.PROBES_FAILED
    enough = activity.slow + len(activity.failed) >= limit
    return Cause.BUSY if activity.slow and enough else None


def _is_silent(activity: Activity, now: float) -> bool:
    """Whether it has shown no work for longer than it was ever seen to need, with some slack."""
    since = activity.failed[0]
    needed = SLACK * activity.slowest_seconds
    return now - since >= needed and not activity.may_tell_more(since, now)
