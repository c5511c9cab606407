"""What /probe answers: the metrics of one session, or a text about it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from exporter.metrics.families.on_demand import ON_DEMAND_PAGE
from exporter.metrics.state.target import TargetState
from exporter.model.on_demand import IN_PROGRESS, STOPPING, OnDemandOutcome
from exporter.model.probe import PauseReason
from exporter.wording import numbers

if TYPE_CHECKING:
    from exporter.metrics.writer import Writer
    from exporter.model.on_demand import OnDemandAnswer

_REFUSALS = {
    PauseReason.QUEUE: "requests wait in the engine's queue (probe.max_waiting_requests)",
    PauseReason.USAGE: "running requests fill the KV cache (probe.max_kv_cache_usage_ratio)",
    PauseReason.BUDGET: "the token budget is used up for now (probe.tokens_per_hour)",
    PauseReason.FOOTPRINT: "the probe would rewrite more of the cache than it may "
    "(probe.max_cache_turnover_per_hour)",
    PauseReason.SHARE: "users are busy, and the probe's share of the prefill would be too large "
    "(probe.max_prefill_share_ratio)",
    PauseReason.ASLEEP: "the engine sleeps",
    PauseReason.PAUSED: "the engine is paused",
    PauseReason.SCALING: "the engine adds or removes ranks",
    IN_PROGRESS: "another session of the exporter is running on this target",
    STOPPING: "the target stops or gets other settings",
}


def refusal(answer: OnDemandAnswer) -> str:
    """Why no session was played, in one line."""
    seconds = answer.retry_seconds
    again = "" if seconds is None else f"; try again in {numbers.seconds(seconds)}"
    why = _REFUSALS.get(answer.reason, answer.reason)
    return f"{answer.target}: no session was played: {why}{again}\n"


def retry_after(answer: OnDemandAnswer) -> dict[str, str]:
    """The header that says when a refused client may ask again."""
    if answer.outcome is not OnDemandOutcome.REFUSED or answer.retry_seconds is None:
        return {}
    return {"Retry-After": str(max(1, math.ceil(answer.retry_seconds)))}


def page(answer: OnDemandAnswer, known: TargetState, writer: Writer) -> str:
    """The metrics of that session alone; `known` is the state of its target."""
    state = TargetState(
        known.name,
        known.mode,
        known.url,
        labels=known.labels,
        turn_label_limit=known.turn_label_limit,
    )
    state.on_demand = answer
    if answer.session is not None:
        state.session_finished(answer.session)
    lines = []
    for family in ON_DEMAND_PAGE:
        body = writer.body(family, family.reader.read(state), leading=state.leading_labels)
        if body:
            lines += [writer.head(family, "target"), body]
    return "".join((*lines, writer.end))
