"""An engine as admission sees it."""

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
