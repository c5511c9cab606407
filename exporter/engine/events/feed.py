"""What arrives of one engine's KV events: counted, checked for gaps, and passed to the session that
is followed. It needs neither pyzmq nor msgspec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from exporter.analysis.loss.session_blocks import SessionBlocks
from exporter.model.kv_events import KvEventKind, KvEventsView

if TYPE_CHECKING:
    from exporter.engine.sink import KvEventSink
    from exporter.model.kv_events import KvBatch

log = structlog.get_logger(__name__)


class KvEventFeed:
    """The events of one engine. The subscriber fills it, and sessions follow their blocks in it.

    At most one session is followed, the latest. `salt` is its salt.
    """

    def __init__(self, target: str, url: str, sink: KvEventSink) -> None:
        self._log = log.bind(target=target)
        self._sink = sink
        self._counts = dict.fromkeys(KvEventKind, 0)
        self._next: dict[int, int] = {}  # the sequence number that follows, by rank
        self._missed = 0
        self._gap = False  # events were missed since the last session began
        self.url = url
        self.connected = False
        self.salt: str | None = None
        self.blocks: SessionBlocks | None = None

    @property
    def view(self) -> KvEventsView:
        return KvEventsView(self.url, self.connected, dict(self._counts), self._missed)

    def continue_from(self, other: KvEventFeed) -> None:
        """Go on with the counts of the feed that this one replaces."""
        self._counts, self._missed = dict(other._counts), other._missed

    def follow(self, salt: str) -> SessionBlocks:
        """Follow the session with this salt from now on, in place of the one before."""
        self.salt, self.blocks, self._gap = salt, SessionBlocks(), False
        return self.blocks

    def set_connected(self, *, connected: bool) -> None:
        """The connection was made or lost. Nothing is lost if the next sequence number follows."""
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            self._log.info("kv_events.connected", url=self.url)
        else:
            self._log.warning("kv_events.disconnected", url=self.url)
        self.publish()

    def stop(self) -> None:
        """Nothing is received any more. That is no change of the connection to log."""
        self.connected = False

    def add(self, sequence: int, batch: KvBatch) -> None:
        """Take one batch. Call `publish` after those that arrived together."""
        for kind, count in batch.counts.items():
            self._counts[kind] += count
        due = self._next.get(batch.rank)
        self._next[batch.rank] = sequence + 1
        if due is not None and sequence != due:
            # A lower number is that of a new process, which began at 0.
            self.miss(sequence - due if sequence > due else sequence)
        if self.blocks is not None:
            self.blocks.add(batch)

    def miss(self, batches: int) -> None:
        """Batches were lost: what happened to the session's blocks is unknown from now on."""
        self._missed += batches
        if self.blocks is not None:
            self.blocks.miss()
        if not self._gap:
            self._gap = True
            self._log.warning("kv_events.missed", batches=batches)

    def unreadable(self, sequence: int) -> None:
        """A batch arrived that cannot be read."""
        for rank, due in self._next.items():
            if due == sequence:
                self._next[rank] = sequence + 1
                break
        self.miss(1)

    def publish(self) -> None:
        """Publish the state."""
        self._sink.kv_events_changed(self.view)
