"""An engine as admission sees it, and admissions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from publish_records import engine_view
from recorded_sinks import RecordedLoop, RecordedProbe

from exporter.config import ProbeSettings
from exporter.probe.admission import Admission

if TYPE_CHECKING:
    from exporter.model.engine import EngineView


def engine(
    waiting: float | None = 0.0,
    usage: float | None = 0.0,
    *,
    generated: float | None = 640.0,
    asleep: bool | None = None,
) -> EngineView:
    """A view with these waiting requests, cache usage and generated tokens."""
    view = engine_view()
    assert view.snapshot is not None
    snapshot = replace(
        view.snapshot,
        requests_waiting=waiting,
        kv_cache_usage_ratio=usage,
        generation_tokens=generated,
        asleep=asleep,
    )
    return replace(view, snapshot=snapshot)


def load_policy(tokens_per_hour: int = 0, waiting: int = 0, usage: float = 1.0) -> ProbeSettings:
    """The limits on the load; by default only a queue delays a session."""
    return ProbeSettings(
        tokens_per_hour=tokens_per_hour,
        max_waiting_requests=waiting,
        max_kv_cache_usage_ratio=usage,
        max_cache_turnover_per_hour=0,
        quiet_after_seconds=0,
        max_prefill_share_ratio=1.0,
    )


def new_admission(observe, clock, policy: ProbeSettings | None = None, **options) -> Admission:
    """An admission on that clock; `sink` keeps what it publishes."""
    options.setdefault("sink", RecordedProbe())
    heartbeat = RecordedLoop(clock).heartbeat
    return Admission("t", policy or load_policy(), observe, heartbeat=heartbeat, **options)
