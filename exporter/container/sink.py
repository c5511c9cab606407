"""What the supervisor publishes. The metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exporter.container.decide.records import ContainerView


class ContainerSink(Protocol):
    """Gets what is known of one container."""

    def container_changed(self, view: ContainerView) -> None:
        """The supervisor looked at the container, or did something with it."""
