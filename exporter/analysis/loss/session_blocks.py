"""Follows the blocks of one session through an engine's KV events, by their hashes. Pure.

Which blocks are the session's: the first block of a request is hashed with its salt, and every
later one with the hash of the block before it. So a block under the session's salt, one that
follows a block of the session, and one with the hash of a block of the session are its own.
Groups of layers have blocks of their own with the same hashes. Nothing is kept of other blocks.

Events arrive a little later than answers. A turn that lost tokens computes blocks again that were
stored before. Once such a block is stored again, all events from before the turn have arrived.

Not every block can be told: with --prefix-match-unit below the block size, vLLM publishes a part of
a block whose parent it never publishes. So `LostBlocks.covered` says how far all are known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter.model.kv_events import AllCleared, BlocksRemoved, BlocksStored, LostBlocks

if TYPE_CHECKING:
    from collections.abc import Collection

    from exporter.model.kv_events import BlockHash, KvBatch


class _Key(NamedTuple):
    """One block of the cache: ranks and groups of layers have blocks of their own."""

    rank: int
    group: int
    hash: BlockHash


class SessionBlocks:
    """The blocks of one session. `add` gets every batch, `begin_turn` and `end_turn` are called
    before a turn is sent and after it was judged.
    """

    def __init__(self) -> None:
        self._copies: dict[_Key, int] = {}  # two requests can compute the same block
        self._first: dict[BlockHash, int] = {}  # the turn in which it was first seen
        self._ends: dict[BlockHash, int] = {}  # tokens from the start to the end of a block
        self._cover: dict[int, int] = {}  # by group: tokens from the start without a gap
        self._covered = 0  # before the turn stored anything
        self._turn = 0
        self._incomplete = False
        self._rank: int | None = None  # where the turn stored known blocks again
        self._removed: set[_Key] = set()  # since the turn before
        self._again: set[_Key] = set()  # those of them that were stored again
        self._cleared: set[int] = set()

    @property
    def found(self) -> bool:
        """Whether any block is known to be the session's."""
        return bool(self._first)

    @property
    def count(self) -> int:
        """How many different blocks are known to be the session's."""
        return len(self._first)

    @property
    def incomplete(self) -> bool:
        """Whether events were missed, so that nothing is known any more."""
        return self._incomplete

    def begin_turn(self) -> None:
        """A turn is about to be sent."""
        self._turn += 1
        self._rank = None

    def end_turn(self) -> None:
        """The turn was judged. What happens from now on concerns the next one."""
        self._removed.clear()
        self._again.clear()
        self._cleared.clear()

    def miss(self) -> None:
        """Events were lost. From now on nothing is known."""
        self._incomplete = True
        self._copies.clear()

    def add(self, batch: KvBatch) -> None:
        """Follow what happened to the session's blocks in a batch."""
        if self._incomplete:
            return
        own = self._own(batch)
        for event in batch.events:
            if isinstance(event, BlocksRemoved):
                self._remove(batch.rank, event)
            elif isinstance(event, AllCleared):
                self._clear(batch.rank)
            elif id(event) in own:
                self._store(batch.rank, event)

    def lost(self) -> LostBlocks | None:
        """What became of the blocks since the turn before.

        None until that is known: the turn has not yet stored any known block again.
        """
        if self._incomplete or self._rank is None:
            return None
        removed = {key for key in self._removed if key.rank == self._rank}
        held = {
            key
            for key, copies in self._copies.items()
            if key.rank == self._rank and copies and self._first[key.hash] < self._turn
        }
        return LostBlocks(
            held=len(held | removed),
            removed=len(removed),
            again=len(self._again & removed),
            cleared=self._rank in self._cleared,
            covered=self._covered,
        )

    def _own(self, batch: KvBatch) -> Collection[int]:
        """The identities of the batch's events that stored blocks of the session.

        A group whose first layers are not kept shows neither salt nor parent, only hashes that
        another group's event has too, before it or after it.
        """
        stored = [event for event in batch.events if isinstance(event, BlocksStored)]
        known: set[BlockHash] = set()
        own: set[int] = set()
        while True:
            found = [
                event
                for event in stored
                if id(event) not in own and (event.salted or self._follows(event, known))
            ]
            if not found:
                return own
            for event in found:
                own.add(id(event))
                known.update(event.hashes)

    def _follows(self, event: BlocksStored, known: set[BlockHash]) -> bool:
        hashes = (*event.hashes, event.parent)
        return any(one in self._first or one in known for one in hashes if one is not None)

    def _store(self, rank: int, event: BlocksStored) -> None:
        known = any(self._first.get(one, self._turn) < self._turn for one in event.hashes)
        if known and self._rank is None:
            self._rank, self._covered = rank, max(self._cover.values(), default=0)
        for one in event.hashes:
            key = _Key(rank, event.group, one)
            self._first.setdefault(one, self._turn)
            if key in self._removed:
                self._again.add(key)
            self._copies[key] = self._copies.get(key, 0) + 1
        self._extend_cover(event)

    def _extend_cover(self, event: BlocksStored) -> None:
        start = 0 if event.parent is None else self._ends.get(event.parent)
        if start is None or event.block_tokens is None:
            return
        end = start
        for one in event.hashes:
            end += event.block_tokens
            self._ends[one] = end
        if start <= self._cover.get(event.group, 0):
            self._cover[event.group] = max(end, self._cover.get(event.group, 0))

    def _remove(self, rank: int, event: BlocksRemoved) -> None:
        for one in event.hashes:
            key = _Key(rank, event.group, one)
            copies = self._copies.get(key, 0)
            if copies:
                self._copies[key] = copies - 1
                if copies == 1:
                    self._removed.add(key)

    def _clear(self, rank: int) -> None:
        self._cleared.add(rank)
        for key in self._copies:
            if key.rank == rank:
                self._copies[key] = 0
