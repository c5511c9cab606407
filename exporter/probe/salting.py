"""What keeps a session apart from every other: its salt, or words of its own if salts do nothing.

A salt is trusted until a first turn hits under one that was never used, and again once another
process answers: it may be another version. The words stand at the head of the first message, so
that the first block of every prompt of the session differs from every other session's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.model import EngineInfo, EngineView
    from exporter.probe.scenario import Message

Process = tuple[str | None, float | None, int]
"""Version, start time, and restarts seen: what tells one process of an engine from the next."""

NONCE_TOKENS = 40
"""More than a nonce takes: 32 characters, a token each at worst, and a line break."""


def process_of(info: EngineInfo, view: EngineView | None) -> Process | None:
    """The process that answers; None where that is not known or there are several."""
    if view is None or view.snapshot is None or view.mixed:
        return None
    return info.version, view.snapshot.process_start_time, view.restarts


class SaltTrust:
    """Whether the engine keeps salts apart, as far as its sessions showed."""

    def __init__(self) -> None:
        self._ignored = False
        self._by: Process | None = None

    def ignored(self, process: Process | None) -> bool:
        """Whether this process is known to ignore salts."""
        if process is not None and self._by is not None and process != self._by:
            self._ignored, self._by = False, None
        return self._ignored

    def distrust(self, process: Process | None) -> None:
        """A first turn hit under a salt never used before."""
        self._ignored, self._by = True, process


def with_nonce(message: Message, nonce: str) -> Message:
    """The message with words before its own that no other session has."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": nonce}, *content]}
    return {**message, "content": f"{nonce}\n{content or ''}"}
