"""Which targets /metrics shows, and what it knows of each.

A page is written from these states when a client asks for it, so a value that is not known any more
is absent. All calls come from the event loop's thread.
"""

from __future__ import annotations

import platform
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

import exporter
from exporter.metrics.state.exporter import ExporterState
from exporter.revision import revision

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from exporter.metrics.state.target import TargetState

log = structlog.stdlib.get_logger(__name__)


WHOLE_PAGE_TARGETS = 100
"""Default of `whole_page_targets`."""


class Metrics:
    """The state of every target, and of the exporter itself.

    Turns above `turn_label_limit` have no series of their own; they count in every sum. Above
    `whole_page_targets` targets, /metrics shows no target: each has a page of its own.
    """

    def __init__(
        self, *, turn_label_limit: int = 32, whole_page_targets: int = WHOLE_PAGE_TARGETS
    ) -> None:
        self._turn_label_limit = turn_label_limit
        self._whole_page_targets = whole_page_targets
        self._targets: dict[str, TargetState] = {}
        self._by_engine: dict[str | None, dict[str, TargetState]] = {}
        self._swaps = 0
        self.exporter = ExporterState(exporter.__version__, revision(), platform.python_version())

    @property
    def targets(self) -> Mapping[str, TargetState]:
        """The state of each target by name. Add and remove by the methods below."""
        return MappingProxyType(self._targets)

    def add(self, target: TargetState) -> None:
        """Show a target from now on."""
        target.turn_label_limit = self._turn_label_limit
        self._forget(target.name)
        self._targets[target.name] = target
        self._by_engine.setdefault(target.url, {})[target.name] = target
        self._counted()

    def remove(self, name: str) -> None:
        """Stop showing a target: its series end, and those of its loops. It may be absent."""
        self._forget(name)
        self._counted()

    def of_engine(self, url: str | None) -> Collection[TargetState]:
        """The targets with that URL, such as a model and its LoRA adapters."""
        return self._by_engine.get(url, {}).values()

    def _forget(self, name: str) -> None:
        gone = self._targets.pop(name, None)
        if gone is None:
            return
        same = self._by_engine[gone.url]
        del same[name]
        if not same:
            del self._by_engine[gone.url]

    @contextmanager
    def swap(self, wanted: int) -> Iterator[None]:
        """Add and remove targets inside this, until there are `wanted`.

        Old and new targets are there together for a moment. A fleet at its limit must not lose its
        whole page for that, so it is decided by `wanted` before, and by the true number after.
        """
        if wanted > self._whole_page_targets:
            self._decide_page(wanted)
        self._swaps += 1
        try:
            yield
        finally:
            self._swaps -= 1
            self._counted()

    def limit_whole_page(self, targets: int) -> None:
        """Change `whole_page_targets`."""
        self._whole_page_targets = targets
        self._counted()

    def limit_turns(self, turn_label_limit: int) -> None:
        """Change `turn_label_limit`."""
        self._turn_label_limit = turn_label_limit
        for target in self._targets.values():
            target.turn_label_limit = turn_label_limit

    def _counted(self) -> None:
        self.exporter.targets = len(self._targets)
        if not self._swaps:
            self._decide_page(len(self._targets))

    def _decide_page(self, targets: int) -> None:
        state, before = self.exporter, self.exporter.whole_page
        state.whole_page = targets <= self._whole_page_targets
        if state.whole_page != before:
            as_asked = state.whole_page or self._whole_page_targets == 0
            say = log.info if as_asked else log.warning
            say(
                "metrics.whole_page" if state.whole_page else "metrics.page_of_each_target",
                targets=targets,
                whole_page_targets=self._whole_page_targets,
            )
