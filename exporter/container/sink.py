"""What the supervisor publishes. The metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exporter.container.decide.records import ContainerView


class ContainerSink(Protocol):
    """Gets the views of one container."""

    def container_changed(self, view: ContainerView) -> None:
        """After each observation and at each action."""
