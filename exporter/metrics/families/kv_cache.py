"""The families of the blocks of the KV cache: what the engine publishes about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import by, counter, gauge, one

if TYPE_CHECKING:
    from exporter.metrics.readers import Family
    from exporter.metrics.state.target import TargetState

KV_CACHE: Final[tuple[Family[TargetState], ...]] = (
    gauge(
        "vllm_engine_kv_events_connected",
        one(lambda t: None if t.kv_events is None else t.kv_events.connected),
        "1 while the exporter is connected to the engine's KV events. Absent without "
        "kv_events_url, as the other families of KV events.",
    ),
    counter(
        "vllm_engine_kv_events_total",
        by("event", lambda t: None if t.kv_events is None else t.kv_events.events),
        "KV events received, of all traffic and all tiers: blocks stored, removed, the cache "
        "cleared, and events of other kinds.",
    ),
    counter(
        "vllm_engine_kv_events_missed_total",
        one(lambda t: None if t.kv_events is None else t.kv_events.missed),
        "Batches of KV events that were published and not received or not read, by their sequence "
        "numbers. After one the session that runs has no evidence from events.",
    ),
)
