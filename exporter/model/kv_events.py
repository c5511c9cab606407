"""What an engine publishes about the blocks of its prefix cache (vLLM's KV events).

A record has hashes of blocks, and neither tokens nor salts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BlockHash = int | bytes
"""vLLM publishes 64 bits of a hash as a number, or the whole hash as bytes."""


class KvEventKind(StrEnum):
    """The kinds of events, by the names of the label `event`."""

    STORED = "stored"  # BlockStored
    REMOVED = "removed"  # BlockRemoved
    CLEARED = "cleared"  # AllBlocksCleared
    OTHER = "other"  # of a newer vLLM


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks that a request filled, in order. `parent` is the block before them, if any.

    `salted`: the first of them was made under the salt of the session that is followed.
    `block_tokens` is the size of each; None if some of the blocks between were not kept.
    """

    group: int
    hashes: tuple[BlockHash, ...]
    parent: BlockHash | None = None
    salted: bool = False
    block_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks that the engine gave to another request."""

    group: int
    hashes: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True)
class AllCleared:
    """The engine emptied its whole cache."""


KvEvent = BlocksStored | BlocksRemoved | AllCleared


@dataclass(frozen=True, slots=True)
class KvBatch:
    """The events of one step of one rank, in order. `counts` are those of every tier by kind;
    `events` are only those of the engine's own memory.
    """

    rank: int
    events: tuple[KvEvent, ...]
    counts: Mapping[KvEventKind, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KvEventsView:
    """The state of the subscription to one engine's events.

    `missed` are batches that were published and not received, as far as sequence numbers tell.
    """

    url: str
    connected: bool
    events: Mapping[KvEventKind, int]
    missed: int = 0


@dataclass(frozen=True, slots=True)
class LostBlocks:
    """What became of a session's blocks since the turn before, on the rank that ran the turn.

    `held` blocks were stored by then, `removed` of them were removed. The turn computed `again` of
    the removed ones. `cleared`: the whole cache was emptied. The blocks of the session's first
    `covered` tokens are known, all of them.
    """

    held: int
    removed: int = 0
    again: int = 0
    cleared: bool = False
    covered: int = 0
