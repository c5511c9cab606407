"""Keeps what was learned of each engine's cache over a restart of the exporter.

The file holds hits, not the reuse rule, so a later release judges them by its own rules. What it
says of a target counts only for the engine process that it is about.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING

import structlog
from pydantic import TypeAdapter, ValidationError

from exporter.analysis.reuse.engine_knowledge import Remembered

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)

_MOST_TARGETS = 2000
"""Targets that discovery found long ago must not make the file grow without end."""


@cache
def _adapter() -> TypeAdapter[dict[str, Remembered]]:
    """Of the file: what is known of each target. Only a daemon with a file pays for it."""
    return TypeAdapter(dict[str, Remembered])


class RulesFile:
    """What is known of all targets. Without a path nothing is kept."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the file, which may block. A file that cannot be read is an empty one, with a
        warning in the log.
        """
        self._path = path
        self._known: dict[str, Remembered] = {}
        self._written = True
        self._writing = asyncio.Lock()
        if path is None:
            return
        try:
            self._known = _adapter().validate_json(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            meaning = "the reuse rules are learned again in the first session of each target"
            log.warning("rules_file.unreadable", file=str(path), error=str(error), meaning=meaning)

    def recall(self, target: str, process_start_time: float) -> Remembered | None:
        """What is known of this process of the target; None if it is another one."""
        known = self._known.get(target)
        same = known is not None and known.process_start_time == process_start_time
        return known if same else None

    async def remember(self, target: str, now: Remembered) -> None:
        """Keep what is known, and write the file if it is more than before. A failed write is
        logged.

        As many hits of the same process show the same rule, so a fleet does not write all the time.
        """
        before = self.recall(target, now.process_start_time)
        kept = (0, False) if before is None else (len(before.hits), before.hit)
        more = len(now.hits) > kept[0] or now.hit > kept[1]
        if self._path is None or (self._written and not more):
            return
        self._known.pop(target, None)
        self._known[target] = now
        while len(self._known) > _MOST_TARGETS:
            del self._known[next(iter(self._known))]  # the one that was written longest ago
        async with self._writing:
            try:
                await asyncio.to_thread(_replace, self._path, _adapter().dump_json(self._known))
                self._written = True
            except OSError as error:
                self._written = False  # the next session tries again
                log.warning("rules_file.not_written", file=str(self._path), error=str(error))


def _replace(path: Path, content: bytes) -> None:
    """Write beside the file first, so that a crash leaves the old file or the new one."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)
