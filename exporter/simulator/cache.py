"""vLLM's prefix cache: full blocks of tokens, found by a hash over all tokens up to their end.

The rules are those of vLLM 0.32.0 (v1/core/block_pool.py and kv_cache_manager.py):

- A block's key is a hash of its parent's key and its own tokens; the first block's parent is the
  request's `cache_salt`. So a key identifies a whole prefix under one salt.
- A lookup hits only full blocks, in order, and never a whole prompt: the last token is always
  computed, so at most floor((n - 1) / B) blocks hit.
- A block is in use while a request holds it. A free block waits in the free queue and keeps its
  content until it is reused, from the queue's head. A request frees its blocks from the end, so a
  prefix is evicted from its end. Blocks without a key (a partial tail) go to the head, because no
  lookup can hit them.
- One block of the pool is the null block, which is always empty.

`PrefixCache.rule` serves less of a hit, as other kinds of engine do (reuse.py). A block stands for
the blocks of all groups of layers at its place; `Block.state` says that sparse groups keep it too.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from exporter.simulator.engine_kinds import reuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_KEY_BYTES = 16


class CacheEvents(Protocol):
    """Gets what happens to blocks, as kv_events/publisher.py does."""

    def stored(
        self,
        keys: Sequence[bytes],
        parent: bytes | None,
        ids: Sequence[int],
        block_size: int,
        salt: str | None,
    ) -> None: ...

    def removed(self, key: bytes) -> None: ...

    def cleared(self) -> None: ...

    def flush(self, time: float) -> None: ...


class Block:
    """One block of the pool. `key` is None unless it holds a full, hashed block."""

    __slots__ = ("key", "number", "state", "users")

    def __init__(self, number: int) -> None:
        self.number = number
        self.key: bytes | None = None
        self.state = False  # whether sliding and linear groups keep it
        self.users = 0


class Holding:
    """One request's tokens and the blocks that it holds for them, in order."""

    __slots__ = (
        *("blocks", "ids", "junction", "keys", "kept_tokens", "prompt_tokens", "registered"),
        "salt",
    )

    def __init__(
        self, ids: Sequence[int], salt: str | None, kept_tokens: int | None = None
    ) -> None:
        """No block after `kept_tokens` tokens is kept; None: all are."""
        self.ids = list(ids)
        self.prompt_tokens = len(self.ids)
        self.salt = salt
        self.blocks: list[Block] = []
        self.keys: list[bytes] = []  # keys of the full blocks of `ids`, as far as needed yet
        self.registered = 0  # blocks that other requests can find
        self.kept_tokens = kept_tokens
        self.junction = 0  # where full-attention groups had a longer hit than sparse ones


class PrefixCache:
    """The blocks of one engine rank."""

    def __init__(self, num_blocks: int, block_size: int, *, caching: bool = True) -> None:
        self.block_size = block_size
        self.caching = caching
        self.rule = reuse.PLAIN
        self.events: CacheEvents | None = None
        self.num_blocks = num_blocks
        self._next_number = num_blocks
        first = (Block(number) for number in range(1, num_blocks))  # 0 is the null block
        self._free: OrderedDict[int, Block] = OrderedDict((block.number, block) for block in first)
        # Two requests may compute the same block at once, so a key can have several.
        self._by_key: dict[bytes, dict[int, Block]] = {}
        self._in_use = 0

    @property
    def usage(self) -> float:
        """The share of blocks in use by requests, 0…1; a full but idle cache is at 0."""
        return self._in_use / (self.num_blocks - 1)

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def lookup(self, holding: Holding) -> list[Block]:
        """The blocks of the longest cached prefix. Does not take them."""
        if not self.caching:
            return []
        self._extend_keys(holding)
        found: list[Block] = []
        for key in holding.keys[: self.rule.longest(len(holding.ids)) // self.block_size]:
            blocks = self._by_key.get(key, {})
            # Each occurrence that did not hit has left its own block.
            if len(blocks) < self.rule.sightings - 1:
                break
            found.append(max(blocks.values(), key=lambda block: block.state))
        served = self.rule.served(len(found) * self.block_size, self.block_size)
        if not self.rule.dense:
            full, served = served, self._hit_of_sparse_groups(holding, served)
            holding.junction = full if full > served and self.rule.full else 0
        return found[: served // self.block_size]

    def _hit_of_sparse_groups(self, holding: Holding, most: int) -> int:
        """The longest hit up to `most` tokens for which sliding or linear groups kept all."""
        size = self.block_size
        for end in range(most, 0, -self.rule.unit_of(size)):
            first, last = self.rule.needed(end, size)
            if all(self._has_state(key) for key in holding.keys[first // size : last // size]):
                return end
        return 0

    def _has_state(self, key: bytes) -> bool:
        return any(block.state for block in self._by_key.get(key, {}).values())

    def begin(self, holding: Holding, hits: list[Block]) -> bool:
        """Give a request its `hits` if the rest of its tokens fits too; False if not."""
        idle_hits = sum(block.users == 0 for block in hits)
        missing = self._blocks_for(len(holding.ids)) - len(hits)
        if missing + idle_hits > self.free_blocks:
            return False
        for block in hits:
            if block.users == 0:
                del self._free[block.number]
                self._in_use += 1
            block.users += 1
        holding.blocks = list(hits)
        holding.registered = len(hits)
        return True

    def extend(self, holding: Holding, tokens: int) -> bool:
        """Allocate blocks for the first `tokens` tokens, and let other requests find the full ones.

        Returns False and changes nothing if there is no room. vLLM registers blocks when it
        schedules their computation, so a request in the same step can already hit them.
        """
        missing = self._blocks_for(tokens) - len(holding.blocks)
        if missing > self.free_blocks:
            return False
        for _ in range(missing):
            holding.blocks.append(self._take())
        if self.caching:
            self._extend_keys(holding)
            self._register(holding, tokens)
        return True

    def _register(self, holding: Holding, tokens: int) -> None:
        """Let other requests find the full blocks of the first `tokens` tokens."""
        if holding.kept_tokens is not None:
            tokens = min(tokens, holding.kept_tokens)
        full = max(0, tokens - self.rule.look_ahead) // self.block_size
        for place in range(holding.registered, full):
            block = holding.blocks[place]
            block.key = holding.keys[place]
            block.state = not self.rule.dense and self._needs_state(holding, place)
            self._by_key.setdefault(block.key, {})[block.number] = block
        if self.events is not None and full > holding.registered:
            self._tell_stored(self.events, holding, full)
        holding.registered = max(holding.registered, full)

    def _tell_stored(self, events: CacheEvents, holding: Holding, full: int) -> None:
        first, size = holding.registered, self.block_size
        events.stored(
            holding.keys[first:full],
            holding.keys[first - 1] if first else None,
            holding.ids[first * size : full * size],
            size,
            None if first else holding.salt,
        )

    def _needs_state(self, holding: Holding, place: int) -> bool:
        """Whether sparse groups keep the block: a later request can resume after it."""
        size, rule = self.block_size, self.rule
        junction = holding.junction // rule.unit_of(size) * rule.unit_of(size)
        for end in (*rule.boundaries(holding.prompt_tokens, size), junction):
            first, last = rule.needed(end, size)
            if end and first <= place * size < last:
                return True
        return False

    def release(self, holding: Holding) -> None:
        """Free a request's blocks, from the end."""
        without_key: list[Block] = []
        for block in reversed(holding.blocks):
            block.users -= 1
            if block.users:
                continue
            self._in_use -= 1
            if block.key is None:
                without_key.append(block)
            else:
                self._free[block.number] = block
        for block in reversed(without_key):
            self._free[block.number] = block
            self._free.move_to_end(block.number, last=False)
        holding.blocks = []

    def reset(self) -> bool:
        """Forget every prefix. Returns False and does nothing while a request holds blocks."""
        if self._in_use:
            return False
        self.forget()
        if self.events is not None:
            self.events.cleared()
        return True

    def forget(self) -> None:
        """Forget every prefix, also of blocks in use."""
        for blocks in self._by_key.values():
            for block in blocks.values():
                block.key = None
        self._by_key.clear()

    def resize(self, num_blocks: int) -> bool:
        """Change the size to `num_blocks`. Returns False and does nothing if too many are in use.

        A smaller cache loses the blocks that would have been evicted next.
        """
        if num_blocks - 1 < self._in_use:
            return False
        for _ in range(self.num_blocks - num_blocks):
            self._drop_key(self._free.popitem(last=False)[1])
        for _ in range(num_blocks - self.num_blocks):
            block = Block(self._next_number)
            self._next_number += 1
            self._free[block.number] = block
            self._free.move_to_end(block.number, last=False)
        self.num_blocks = num_blocks
        return True

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _take(self) -> Block:
        _, block = self._free.popitem(last=False)
        self._drop_key(block)
        block.users = 1
        self._in_use += 1
        return block

    def _drop_key(self, block: Block) -> None:
        if block.key is None:
            return
        blocks = self._by_key[block.key]
        del blocks[block.number]
        if not blocks:
            del self._by_key[block.key]
        if self.events is not None:
            self.events.removed(block.key)
        block.key = None

    def _extend_keys(self, holding: Holding) -> None:
        size, ahead = self.block_size, self.rule.look_ahead
        parent = holding.keys[-1] if holding.keys else _root(holding.salt)
        for place in range(len(holding.keys), max(0, len(holding.ids) - ahead) // size):
            parent = _key(parent, holding.ids[place * size : (place + 1) * size + ahead])
            holding.keys.append(parent)


def _root(salt: str | None) -> bytes:
    # Without a salt the root is empty, which no hash of a salt can be.
    return b"" if salt is None else blake2b(salt.encode(errors="replace"), digest_size=16).digest()


def _key(parent: bytes, ids: Iterable[int]) -> bytes:
    return blake2b(parent + array("q", ids).tobytes(), digest_size=_KEY_BYTES).digest()
