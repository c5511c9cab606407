"""Reads vLLM's KV events: msgpack batches of BlockStored, BlockRemoved and AllBlocksCleared.

vLLM publishes token ids and salts of all clients with them. They are not read: a field that is not
named here is skipped, and `msgspec.Raw` is a piece of the message, which is dropped with it. Only
the number of token ids is read, and the one salt that is looked for is that of the exporter's own
session.

Read in `vllm/distributed/kv_events.py`: an event of 0.32.0 is a map, one of 0.10.2 to 0.22.1 an
array that grew at its end. Extra keys, which have the salt, are there since 0.17 at the latest.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from exporter.model.kv_events import (
    AllCleared,
    BlocksRemoved,
    BlocksStored,
    KvBatch,
    KvEvent,
    KvEventKind,
)

_NIL = msgspec.Raw(b"\xc0")
_OWN_MEMORY = frozenset({None, "GPU", "gpu"})
"""The tier of the prefix cache itself, also on CPUs. Connectors publish for other tiers."""


class UnreadableEventsError(Exception):
    """A message is not a batch of KV events. Its text has nothing of the message."""


class _Stored(msgspec.Struct, tag="BlockStored"):
    block_hashes: list[int | bytes]
    block_size: int
    parent_block_hash: int | bytes | None = None
    token_ids: msgspec.Raw = _NIL
    medium: str | None = None
    extra_keys: msgspec.Raw = _NIL
    group_idx: int | None = None


class _Removed(msgspec.Struct, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class _Cleared(msgspec.Struct, tag="AllBlocksCleared"):
    medium: ClassVar[str | None] = None


class _StoredArray(msgspec.Struct, tag="BlockStored", array_like=True):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: msgspec.Raw
    block_size: int
    lora_id: msgspec.Raw = _NIL
    medium: str | None = None
    lora_name: msgspec.Raw = _NIL
    extra_keys: msgspec.Raw = _NIL
    group_idx: int | None = None


class _RemovedArray(msgspec.Struct, tag="BlockRemoved", array_like=True):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class _ClearedArray(msgspec.Struct, tag="AllBlocksCleared", array_like=True):
    medium: ClassVar[str | None] = None


class _Batch(msgspec.Struct, array_like=True):
    ts: msgspec.Raw
    events: list[msgspec.Raw]
    data_parallel_rank: int | None = None


_Event = _Stored | _Removed | _Cleared | _StoredArray | _RemovedArray | _ClearedArray
_BATCH = msgspec.msgpack.Decoder(_Batch)
_MAP: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_Stored | _Removed | _Cleared)
_ARRAY: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    _StoredArray | _RemovedArray | _ClearedArray
)
_FIRST_ARRAY, _LAST_ARRAY, _LONG_ARRAYS = 0x90, 0x9F, (0xDC, 0xDD)  # of the msgpack format


def decode(payload: bytes, salt: str | None) -> KvBatch:
    """The batch of one message. `salt` is that of the session that is followed, if there is one.

    Raises `UnreadableEventsError`.
    """
    try:
        batch = _BATCH.decode(payload)
    except msgspec.MsgspecError:
        raise UnreadableEventsError("not a batch of KV events") from None
    wanted = None if salt is None else msgspec.msgpack.encode(salt)
    counts = dict.fromkeys(KvEventKind, 0)
    events: list[KvEvent] = []
    for raw in batch.events:
        event = _event(raw)
        counts[_kind(event)] += 1
        if event is not None and event.medium in _OWN_MEMORY:
            events.append(_record(event, wanted))
    return KvBatch(batch.data_parallel_rank or 0, tuple(events), counts)


def _event(raw: msgspec.Raw) -> _Event | None:
    """None: of a kind that is not known here."""
    data = memoryview(raw)
    first = data[0]
    array = _FIRST_ARRAY <= first <= _LAST_ARRAY or first in _LONG_ARRAYS
    try:
        found: _Event = (_ARRAY if array else _MAP).decode(data)
    except msgspec.MsgspecError:
        if _tag(data, array=array) in _KINDS_BY_TAG:
            raise UnreadableEventsError("an event has not the fields that vLLM gives it") from None
        return None
    return found


def _tag(data: memoryview, *, array: bool) -> str | None:
    decoder = _ARRAY_TAG if array else _MAP_TAG
    try:
        return decoder.decode(data).type
    except msgspec.MsgspecError:
        return None


class _MapTag(msgspec.Struct):
    type: str


class _ArrayTag(msgspec.Struct, array_like=True):
    type: str


_MAP_TAG = msgspec.msgpack.Decoder(_MapTag)
_ARRAY_TAG: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(_ArrayTag)
_KINDS_BY_TAG = {
    "BlockStored": KvEventKind.STORED,
    "BlockRemoved": KvEventKind.REMOVED,
    "AllBlocksCleared": KvEventKind.CLEARED,
}


def _length(array: msgspec.Raw) -> int | None:
    """The length of an array, by its head; its items are not read."""
    head = bytes(memoryview(array)[:5])
    if _FIRST_ARRAY <= head[0] <= _LAST_ARRAY:
        return head[0] - _FIRST_ARRAY
    size = {0xDC: 2, 0xDD: 4}.get(head[0])
    return None if size is None else int.from_bytes(head[1 : 1 + size], "big")


_KINDS_BY_CLASS: dict[type[_Event], KvEventKind] = {
    one: _KINDS_BY_TAG[str(one.__struct_config__.tag)]
    for one in (_Stored, _Removed, _Cleared, _StoredArray, _RemovedArray, _ClearedArray)
}


def _kind(event: _Event | None) -> KvEventKind:
    return KvEventKind.OTHER if event is None else _KINDS_BY_CLASS[type(event)]


def _record(event: _Event, salt: bytes | None) -> KvEvent:
    if isinstance(event, _Stored | _StoredArray):
        salted = salt is not None and salt in bytes(event.extra_keys)
        hashes, parent = tuple(event.block_hashes), event.parent_block_hash
        whole = _length(event.token_ids) == len(hashes) * event.block_size
        block_tokens = event.block_size if whole else None
        return BlocksStored(event.group_idx or 0, hashes, parent, salted, block_tokens)
    if isinstance(event, _Removed | _RemovedArray):
        return BlocksRemoved(event.group_idx or 0, tuple(event.block_hashes))
    return AllCleared()
