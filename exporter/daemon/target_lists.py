"""Merges the targets of the configuration and of every discovery source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.config import Target

log = structlog.get_logger(__name__)


class TargetLists:
    """One list per source, after the list of the configuration.

    Names are unique. If two lists have a name, the earlier list wins. The other target is left out
    and logged once.
    """

    def __init__(
        self,
        static: Sequence[Target],
        found: Mapping[str, tuple[Target, ...]] | None = None,
        logged: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._static = tuple(static)
        self._found = found or {}
        self._logged = logged

    def with_static(self, static: Sequence[Target]) -> TargetLists:
        """These lists with new targets of the configuration."""
        return TargetLists(static, self._found, self._logged)

    def with_found(self, source: str, targets: Sequence[Target]) -> TargetLists:
        """These lists with the targets that a source found. A new source comes last."""
        found = {**self._found, source: tuple(targets)}
        return TargetLists(self._static, found, self._logged)

    def without(self, source: str) -> TargetLists:
        """These lists without a removed source."""
        found = {each: targets for each, targets in self._found.items() if each != source}
        return TargetLists(self._static, found, self._logged)

    def merged(self) -> list[Target]:
        """All targets, each name once."""
        by_name = {each.name: each for each in self._static}
        clashes = set[tuple[str, str]]()
        for source, targets in self._found.items():
            for each in targets:
                if each.name in by_name:
                    clashes.add((source, each.name))
                else:
                    by_name[each.name] = each
        for source, name in sorted(clashes - self._logged):
            log.warning(
                "target.name_taken", target=name, source=source, consequence="it is left out"
            )
        self._logged = frozenset(clashes)
        return list(by_name.values())
