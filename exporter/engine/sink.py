"""What the scraper and the subscriber publish. The metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exporter.model.engine import EngineView
    from exporter.model.kv_events import KvEventsView


class EngineSink(Protocol):
    """Gets the readings of one engine's own /metrics."""

    def engine_scraped(self, view: EngineView) -> None:
        """The engine was read, with success or not."""


class KvEventSink(Protocol):
    """Gets the state of the subscription to one engine's KV events."""

    def kv_events_changed(self, view: KvEventsView) -> None:
        """Events arrived or were missed, or the connection changed."""
