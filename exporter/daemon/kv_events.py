"""Receives the KV events of one target, where it has a `kv_events_url`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from exporter.engine.events.feed import KvEventFeed

if TYPE_CHECKING:
    from exporter.config import Target
    from exporter.loops import LoopHeartbeat
    from exporter.metrics.state.target import TargetState


class KvEventReception:
    """The feed of a target and the loop that fills it."""

    def __init__(self, url: str, state: TargetState, heartbeat: LoopHeartbeat) -> None:
        self.feed = KvEventFeed(state.name, url, state)
        self.heartbeat = heartbeat
        self._state = state

    @classmethod
    def of(cls, target: Target, state: TargetState, heartbeat: LoopHeartbeat) -> Self | None:
        """None if the target has no `kv_events_url`."""
        url = target.kv_events_url
        return None if url is None else cls(url, state, heartbeat)

    async def run(self) -> None:
        """Receive until cancelled."""
        from exporter.engine.events.subscriber import (  # noqa: PLC0415 - needs the extra `events`
            KvEventSubscriber,
        )

        await KvEventSubscriber(self.feed, self.heartbeat, self._ranks).run()

    def _ranks(self) -> int | None:
        view = self._state.engine
        snapshot = None if view is None else view.snapshot
        return None if snapshot is None or snapshot.parts else snapshot.ranks
