"""What holds the probe back, what prefill costs, how long prefixes survive: for people. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model import PauseReason

if TYPE_CHECKING:
    from exporter.publish.api_shape import CostJson
    from exporter.publish.cost_state import CostState

_PAUSES = {
    PauseReason.QUEUE: "requests wait in the engine's queue",
    PauseReason.USAGE: "running requests fill the KV cache",
    PauseReason.ASLEEP: "the engine sleeps or is paused, and a request would wait",
    PauseReason.BUDGET: "the budget of tokens per hour is used up",
}


def cost_facts(cost: CostState) -> list[tuple[str, str | None]]:
    """Names and words; None where there is nothing to say."""
    prefill, seconds = cost.prefill, cost.prefill_seconds_saved
    per_token = (
        None
        if prefill is None
        else f"{prefill.seconds_per_token * 1e6:.1f} ± {prefill.error * 1e6:.1f} µs per token"
    )
    survived = ", ".join(
        f"{share:.0%} after {gap:g} s" for gap, share in sorted(cost.retention.items())
    )
    return [
        ("Probe held back", None if cost.paused is None else _PAUSES[cost.paused]),
        ("Prefill", per_token),
        ("Prefill saved", None if seconds is None else f"{seconds:,.1f} s"),
        ("Still cached", survived or None),
    ]


def cost_json(cost: CostState) -> CostJson:
    """Seconds, tokens, ratios by gap; what is unknown is null or not there."""
    prefill = cost.prefill
    return {
        "paused": cost.paused,
        "budget_tokens_per_hour": cost.budget_tokens_per_hour,
        "prefill_seconds_per_token": None if prefill is None else prefill.seconds_per_token,
        "prefill_seconds_per_token_error": None if prefill is None else prefill.error,
        "prefill_seconds_saved": cost.prefill_seconds_saved,
        "retention_ratios": {f"{gap:g}": share for gap, share in sorted(cost.retention.items())},
    }
