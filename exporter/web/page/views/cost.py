"""Why the probe waits, in words, and the costs of a target as JSON. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.probe import PauseReason
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.metrics.state.cost import CostState
    from exporter.web.api_shape import CostJson

_PAUSES = {
    PauseReason.QUEUE: "because requests wait in the engine's queue",
    PauseReason.USAGE: "because running requests fill the KV cache",
    PauseReason.ASLEEP: "because the engine sleeps or is paused",
}
_HOUR = 3600


def probe_waits(cost: CostState, now: float) -> str | None:
    """Why the probe waits at Unix time `now`; None where it does not."""
    if cost.paused is None or cost.paused in _PAUSES:
        return None if cost.paused is None else _PAUSES[cost.paused]
    budget = f"{numbers.count(cost.budget_tokens_per_hour)} tokens an hour"
    wait = None if cost.paused_until is None else max(0.0, cost.paused_until - now)
    if wait is not None and wait >= _HOUR:
        return f"{numbers.seconds(wait)}, because the budget of {budget} is used up"
    return f"{'' if wait is None else numbers.seconds(wait) + ' '}to stay within {budget}"


def cost_json(cost: CostState) -> CostJson:
    """Seconds, tokens, ratios by gap; what is unknown is null or not there."""
    prefill = cost.prefill
    return {
        "paused": cost.paused,
        "budget_tokens_per_hour": cost.budget_tokens_per_hour,
        "prefill_seconds_per_token": None if prefill is None else prefill.seconds_per_token,
        "prefill_seconds_per_token_error": None if prefill is None else prefill.error,
        "prefill_seconds_saved": cost.prefill_seconds_saved,
        "users_prefill_seconds_saved": cost.users_saved.seconds,
        "retention_ratios": {f"{gap:g}": share for gap, share in sorted(cost.retention.items())},
    }
