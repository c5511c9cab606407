"""What the scraper publishes. The metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exporter.model.engine import EngineView


class EngineSink(Protocol):
    """Gets the readings of one engine's own /metrics."""

    def engine_scraped(self, view: EngineView) -> None:
        """The engine was read, with success or not."""
