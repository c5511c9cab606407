"""The families of the blocks of the KV cache: how long they stay, and what events say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.readers import by, counter, engine_histogram, gauge, histogram, one

if TYPE_CHECKING:
    from exporter.metrics.readers import Family
    from exporter.metrics.state.target import TargetState


KV_CACHE: Final[tuple[Family[TargetState], ...]] = (
    histogram(
        "vllm_engine_kv_block_lifetime_seconds",
        engine_histogram("lifetime"),
        "How long blocks of the KV cache lived from their allocation to their eviction, for a "
        "sample of all traffic's blocks, continued over restarts. Only with --kv-cache-metrics "
        "(vLLM 0.12 and later).",
    ),
    histogram(
        "vllm_engine_kv_block_idle_before_evict_seconds",
        engine_histogram("idle_before_evict"),
        "How long evicted blocks had not been used, for the same sample: a session that pauses "
        "longer than most of these is likely to find its prefix gone.",
    ),
    histogram(
        "vllm_engine_kv_block_reuse_gap_seconds",
        engine_histogram("reuse_gap"),
        "Times between two uses of evicted blocks, for the same sample.",
    ),
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
