"""Whether an engine honours cache_salt, which keeps each session's cache apart from all others.

vLLM before 0.9 does not know the field. Any other process is trusted until a first turn hits under
a salt that was never used. Where salts do nothing, sessions put a nonce at the head of the first
message, so the first block of every prompt differs from those of other sessions. A new process is
trusted again, because it may be another version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.model.engine import release

if TYPE_CHECKING:
    from exporter.model.engine import EngineInfo, EngineView

_SALTS_SINCE = (9, 0)  # vLLM 0.9: `cache_salt` of ChatCompletionRequest


def knows_salts(version: str | None) -> bool:
    """Whether this version of vLLM may know `cache_salt`; True if the version is unknown."""
    found = release(version)
    return found is None or found >= _SALTS_SINCE


@dataclass(frozen=True, slots=True)
class Process:
    """What identifies one process of an engine; None is unknown.

    `restarts` is the number of restarts seen before it, known if its /metrics could be read.
    """

    version: str | None
    start_time: float | None = None
    restarts: int | None = None

    def differs(self, other: Process) -> bool:
        """Whether the two are known to be different processes."""
        return any(
            one is not None and another is not None and one != another
            for one, another in zip(self._parts(), other._parts(), strict=True)
        )

    def merged_with(self, other: Process) -> Process:
        """With what `other`, which is the same process, knows in addition."""
        return Process(
            other.version if self.version is None else self.version,
            other.start_time if self.start_time is None else self.start_time,
            other.restarts if self.restarts is None else self.restarts,
        )

    def _parts(self) -> tuple[str | None, float | None, int | None]:
        return self.version, self.start_time, self.restarts


def process_of(info: EngineInfo, view: EngineView | None) -> Process | None:
    """The process that answers now, as far as it is known; None if there are several."""
    if view is not None and view.mixed:
        return None
    if view is None or view.snapshot is None:
        return Process(info.version)
    return Process(info.version, view.snapshot.process_start_time, view.restarts)


class SaltTrust:
    """Whether sessions showed that the engine ignores salts."""

    def __init__(self) -> None:
        self._ignored = False
        self._by: Process | None = None

    def ignored(self, process: Process | None) -> bool:
        """Whether this process is known to ignore salts, by its version or by a session.

        A process that may be a new one is trusted again. If it is the old one, the next session
        finds that out at the cost of one turn.
        """
        if process is not None and not knows_salts(process.version):
            return True
        if process is not None and self._ignored:
            if self._by is None or process.differs(self._by):
                self._ignored, self._by = False, None
            else:
                self._by = self._by.merged_with(process)
        return self._ignored

    def distrust(self, process: Process | None) -> None:
        """Note that a first turn hit under a salt that was never used."""
        self._ignored, self._by = True, process
