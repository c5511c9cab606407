"""All targets together: those of the configuration, and those that each source has found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.config import Target

log = structlog.get_logger(__name__)


class TargetLists:
    """One list for each source; the configuration's own comes first.

    A name stands for one target. Where two lists have it, the earlier one wins and the later one's
    target is left out, which is logged when it begins.
    """

    def __init__(self, static: Sequence[Target]) -> None:
        self._static = tuple(static)
        self._found: dict[str, tuple[Target, ...]] = {}
        self._told = frozenset[tuple[str, str]]()

    def with_static(self, static: Sequence[Target]) -> TargetLists:
        """The same, with other targets in the configuration."""
        return self._other(tuple(static), self._found)

    def with_found(self, source: str, targets: Sequence[Target]) -> TargetLists:
        """The same, after a source has found these. A new source comes after the others."""
        return self._other(self._static, self._found | {source: tuple(targets)})

    def without(self, source: str) -> TargetLists:
        """The same, after a source is gone with all that it found."""
        return self._other(
            self._static, {each: found for each, found in self._found.items() if each != source}
        )

    def _other(
        self, static: tuple[Target, ...], found: Mapping[str, tuple[Target, ...]]
    ) -> TargetLists:
        other = TargetLists(static)
        other._found, other._told = dict(found), self._told
        return other

    def merged(self) -> list[Target]:
        """Each name once."""
        by_name = {each.name: each for each in self._static}
        clashes = set[tuple[str, str]]()
        for source, targets in self._found.items():
            for each in targets:
                if each.name in by_name:
                    clashes.add((source, each.name))
                else:
                    by_name[each.name] = each
        for source, name in sorted(clashes - self._told):
            log.warning(
                "target.name_taken", target=name, source=source, consequence="it is left out"
            )
        self._told = frozenset(clashes)
        return list(by_name.values())
