"""An engine as the gate before it sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from publish_records import engine_view

if TYPE_CHECKING:
    from exporter.model.engine import EngineView


def engine(
    waiting: float | None = 0.0,
    usage: float | None = 0.0,
    *,
    generated: float | None = 640.0,
    asleep: bool | None = None,
) -> EngineView:
    """One with so many requests in its queue and so full a cache, that has generated so much."""
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
