"""What discovery publishes. The metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.discovery.targets.records import DiscoveryFailure


class DiscoverySink(Protocol):
    """Gets what the sources of targets answer. A source has a name such as `dns:vllm`."""

    def source_added(self, source: str, reasons: Iterable[DiscoveryFailure]) -> None:
        """Count a source from now on, by the reasons for which it can fail."""

    def source_answered(
        self, source: str, *, targets: int, left_out: Mapping[str, int], time: float
    ) -> None:
        """The source answered at the Unix time `time`. `left_out` counts by `LeftOut`."""

    def source_failed(self, source: str, reason: DiscoveryFailure) -> None:
        """The source gave no answer, or one that cannot be used."""

    def source_removed(self, source: str) -> None:
        """Drop what is known of a source."""
