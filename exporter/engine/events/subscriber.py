"""The loop that receives an engine's KV events over ZeroMQ. The only door to pyzmq.

vLLM publishes on a PUB socket: a topic, a sequence number of eight bytes, and a batch in msgpack.
With several data-parallel ranks, each has a socket of its own; its port is the first one plus the
rank. A subscriber that is too slow loses batches, which the sequence numbers show.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from exporter.engine.events.decoding import UnreadableEventsError, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.engine.events.feed import KvEventFeed
    from exporter.loops import LoopHeartbeat

_POLL_SECONDS = 1.0
_BATCHES_AT_ONCE = 256
"""Other tasks of the event loop run after so many."""
_FRAMES = 3
_OPTIONS = (
    (zmq.RCVHWM, 1000),  # batches in memory; more are lost, and seen as a gap
    (zmq.MAXMSGSIZE, 64 << 20),
    (zmq.LINGER, 0),
    (zmq.IPV6, 1),  # IPv4 too
    (zmq.RECONNECT_IVL, 200),
    (zmq.RECONNECT_IVL_MAX, 5000),
    # A peer that vanished without a word counts as gone after so many milliseconds.
    (zmq.HEARTBEAT_IVL, 5000),
    (zmq.HEARTBEAT_TIMEOUT, 15000),
)
_MONITORED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED


class KvEventSubscriber:
    """Fills a feed. `ranks` gives the number of data-parallel ranks that is known now."""

    def __init__(
        self, feed: KvEventFeed, heartbeat: LoopHeartbeat, ranks: Callable[[], int | None]
    ) -> None:
        self._feed = feed
        self._heartbeat = heartbeat
        self._ranks = ranks
        self._connected: set[str] = set()

    async def run(self) -> None:
        """Receive until cancelled. A lost connection is made again by ZeroMQ."""
        with _socket() as (socket, monitor):
            poller = zmq.asyncio.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            opened = 0
            self._connected.clear()
            try:
                while True:
                    opened = self._connect(socket, opened)
                    ready = dict(await poller.poll(int(_POLL_SECONDS * 1000)))
                    with self._heartbeat.guard():
                        if monitor in ready:
                            await self._note(monitor, opened)
                        if socket in ready:
                            await self._receive(socket)
                    self._heartbeat.ran()
            finally:
                self._feed.stop()

    def _connect(self, socket: zmq.asyncio.Socket, opened: int) -> int:
        """Connect to the socket of each rank that is new. Returns their number."""
        wanted = max(1, self._ranks() or 1)
        for rank in range(opened, wanted):
            socket.connect(address_of(self._feed.url, rank))
        return max(opened, wanted)

    async def _note(self, monitor: zmq.asyncio.Socket, opened: int) -> None:
        """Note connections that were made or lost."""
        event: Any = parse_monitor_message(await monitor.recv_multipart())
        endpoint = event["endpoint"].decode(errors="replace")
        if event["event"] == zmq.Event.DISCONNECTED:
            self._connected.discard(endpoint)
        else:
            self._connected.add(endpoint)
        self._feed.set_connected(connected=len(self._connected) >= opened)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        try:
            for _ in range(_BATCHES_AT_ONCE):
                self._take(await socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
        finally:
            self._feed.publish()

    def _take(self, frames: list[bytes]) -> None:
        sequence = int.from_bytes(frames[1], "big") if len(frames) == _FRAMES else -1
        try:
            batch = decode(frames[-1], self._feed.salt)
        except UnreadableEventsError:
            self._feed.unreadable(sequence)
        else:
            self._feed.add(sequence, batch)


@contextmanager
def _socket() -> Iterator[tuple[zmq.asyncio.Socket, zmq.asyncio.Socket]]:
    """A SUB socket for every topic, and the socket that tells of its connections."""
    socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
    try:
        for option, value in _OPTIONS:
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        monitor = socket.get_monitor_socket(_MONITORED)
        try:
            yield socket, monitor
        finally:
            socket.disable_monitor()
            monitor.close()
    finally:
        socket.close()


def address_of(url: str, rank: int) -> str:
    """Where a data-parallel rank publishes: the port plus the rank."""
    if rank == 0 or not url.startswith("tcp://"):
        return url
    host, _, port = url.rpartition(":")
    return f"{host}:{int(port) + rank}"
