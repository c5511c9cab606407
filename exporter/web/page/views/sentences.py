"""Sentences of the status page that need more than a number and a unit. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.analysis.session_totals import ttft_saved
from exporter.model.probe import PauseReason
from exporter.wording import numbers
from exporter.wording.sentences import ttft_saving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.analysis.footprint import Footprint
    from exporter.metrics.state.cost import CostState
    from exporter.metrics.state.target import TargetState
    from exporter.model.session import SessionResult

_PAUSES = {
    PauseReason.QUEUE: "because requests wait in the engine's queue",
    PauseReason.USAGE: "because running requests fill the KV cache",
    PauseReason.ASLEEP: "because the engine sleeps",
    PauseReason.PAUSED: "because the engine is paused",
    PauseReason.SCALING: "because the engine adds or removes ranks",
    PauseReason.QUIET: "because nobody uses the engine; heartbeats go on",
    PauseReason.SHARE: "because users are busy, to stay within its share of the prefill",
}
_HOUR = 3600
_PAIRS = 16  # of a turn and its cold control are compared: the latest, few enough to be quick


def probe_waits(cost: CostState, now: float) -> str | None:
    """Why the probe waits at Unix time `now`; None if it does not."""
    if cost.paused is None or cost.paused in _PAUSES:
        return None if cost.paused is None else _PAUSES[cost.paused]
    wait = None if cost.paused_until is None else max(0.0, cost.paused_until - now)
    if cost.paused is PauseReason.FOOTPRINT:
        limit = cost.footprint.limit_ratio if cost.footprint else None
        left = "" if wait is None else f"{numbers.seconds(wait)} "
        most = "its limit" if limit is None else numbers.percent(limit)
        return f"{left}to rewrite at most {most} of the cache per hour; heartbeats go on"
    budget = f"{numbers.count(cost.budget_tokens_per_hour)} tokens an hour"
    if wait is not None and wait >= _HOUR:
        return f"{numbers.seconds(wait)}, because the budget of {budget} is used up"
    return f"{'' if wait is None else numbers.seconds(wait) + ' '}to stay within {budget}"


def footprint_in_words(footprint: Footprint | None) -> str | None:
    """What the probe wrote into the cache within the last hour; None if that is unknown."""
    if footprint is None:
        return None
    written = f"{numbers.count(footprint.written)} tokens"
    if footprint.turnover is None:
        return f"the probe wrote {written} into the cache in the last hour; its size is unknown"
    share = numbers.percent(footprint.turnover)
    limit = footprint.limit_ratio
    most = "" if limit is None else f"; the limit is {numbers.percent(limit)}"
    return f"the probe rewrote {share} of the cache in the last hour, {written}{most}"


def last_heartbeat(state: TargetState, now: float) -> str | None:
    """When the last heartbeat succeeded; None before the first one."""
    at = state.last_heartbeat_time
    return None if at is None else numbers.ago(at, now)


def time_saved(newest_first: Sequence[SessionResult]) -> str | None:
    """What the last cold controls of this engine show; those of one session are too few."""
    engine = [(each.model, each.engine_version) for each in newest_first[:1]]
    pairs = [
        seconds
        for each in newest_first
        if (each.model, each.engine_version) in engine
        for seconds in ttft_saved(each.turns)
    ][:_PAIRS]
    saved = ttft_saving(pairs)
    return None if saved is None else f"{saved}, {len(pairs)} cold controls"


def by_cause(counts: Mapping[str, int]) -> str | None:
    """Counts by cause, most frequent first, without zeros; None where nothing remains."""
    met = sorted(
        ((n, cause) for cause, n in counts.items() if n), key=lambda one: (-one[0], one[1])
    )
    return ", ".join(f"{n} {numbers.spaced(cause)}" for n, cause in met) or None
