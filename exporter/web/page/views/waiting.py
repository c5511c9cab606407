"""Why the probe waits, in words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.probe import PauseReason
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.metrics.state.cost import CostState

_PAUSES = {
    PauseReason.QUEUE: "because requests wait in the engine's queue",
    PauseReason.USAGE: "because running requests fill the KV cache",
    PauseReason.ASLEEP: "because the engine sleeps or is paused",
}
_HOUR = 3600


def probe_waits(cost: CostState, now: float) -> str | None:
    """Why the probe waits at Unix time `now`; None if it does not."""
    if cost.paused is None or cost.paused in _PAUSES:
        return None if cost.paused is None else _PAUSES[cost.paused]
    budget = f"{numbers.count(cost.budget_tokens_per_hour)} tokens an hour"
    wait = None if cost.paused_until is None else max(0.0, cost.paused_until - now)
    if wait is not None and wait >= _HOUR:
        return f"{numbers.seconds(wait)}, because the budget of {budget} is used up"
    return f"{'' if wait is None else numbers.seconds(wait) + ' '}to stay within {budget}"
