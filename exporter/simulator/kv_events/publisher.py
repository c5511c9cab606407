"""Publishes KV events as vLLM 0.32.0 does (`vllm/distributed/kv_events.py`): a PUB socket for each
rank; each message is a topic, a sequence number of eight bytes and a batch in msgpack.

An event is a map with its kind as `type`. Fields at their default are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.simulator.kv_events.settings import KvEventsConfig

_MASK = (1 << 64) - 1
_MEDIUM = "GPU"


class KvEventPublisher:
    """The events of one rank. They wait for `flush`, which ends a step."""

    def __init__(self, config: KvEventsConfig, rank: int) -> None:
        """Bind. Raises `zmq.ZMQError` if the port is taken."""
        self._rank = rank
        self._topic = config.topic.encode()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(_offset(config.endpoint, rank))
        self._sequence = 0
        self._events: list[dict[str, Any]] = []

    @property
    def endpoint(self) -> str:
        """The address that is bound, with its port."""
        return str(self._socket.getsockopt_string(zmq.LAST_ENDPOINT))

    def stored(
        self,
        keys: Sequence[bytes],
        parent: bytes | None,
        ids: Sequence[int],
        block_size: int,
        salt: str | None,
    ) -> None:
        """Blocks became full. `salt` is given for the first blocks of a request."""
        extra: list[list[str] | None] = [None] * len(keys)
        if salt is not None:
            extra[0] = [salt]
        self._events.append(
            {
                "type": "BlockStored",
                "block_hashes": [_number(key) for key in keys],
                "parent_block_hash": None if parent is None else _number(parent),
                "token_ids": list(ids),
                "block_size": block_size,
                "lora_id": None,
                "medium": _MEDIUM,
                "lora_name": None,
                "extra_keys": extra,
                "group_idx": 0,
                "kv_cache_spec_kind": "full_attention",
            }
        )

    def removed(self, key: bytes) -> None:
        """A block was evicted."""
        self._events.append(
            {
                "type": "BlockRemoved",
                "block_hashes": [_number(key)],
                "medium": _MEDIUM,
                "group_idx": 0,
            }
        )

    def cleared(self) -> None:
        """The cache was reset. As in vLLM, the event leaves with the next step."""
        self._events.append({"type": "AllBlocksCleared"})

    def flush(self, time: float) -> None:
        """Publish what happened in a step that ended at the Unix time `time`."""
        if not self._events:
            return
        payload = msgspec.msgpack.encode([time, self._events, self._rank])
        number = self._sequence.to_bytes(8, "big")
        self._socket.send_multipart((self._topic, number, payload), zmq.NOBLOCK)
        self._sequence += 1
        self._events = []

    def restart(self) -> None:
        """Begin again at 0, as a new process does."""
        self._sequence = 0
        self._events = []

    def close(self) -> None:
        self._socket.close()


def _number(key: bytes) -> int:
    return int.from_bytes(key, "big") & _MASK


def _offset(endpoint: str, rank: int) -> str:
    host, _, port = endpoint.rpartition(":")
    return f"{host}:{int(port) + rank}" if rank and port.isdecimal() else endpoint
