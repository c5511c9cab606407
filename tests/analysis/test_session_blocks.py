"""What became of a session's blocks, by an engine's events: nothing is said of others' blocks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.analysis.loss.session_blocks import SessionBlocks
from exporter.model.kv_events import (
    AllCleared,
    BlocksRemoved,
    BlocksStored,
    KvBatch,
    LostBlocks,
)
from exporter.simulator.cache import Holding, PrefixCache

SALT = "own"
BLOCK = 4


def stored(*hashes, parent=None, salted=False, group=0, size=10):
    return BlocksStored(group, hashes, parent, salted, size)


def removed(*hashes, group=0):
    return BlocksRemoved(group, hashes)


def followed(*batches, rank=0):
    """Blocks of a session with one turn that stored 1 to 4, then a second turn."""
    blocks = SessionBlocks()
    blocks.begin_turn()
    blocks.add(KvBatch(rank, (stored(1, 2, salted=True), stored(3, 4, parent=2))))
    blocks.end_turn()
    for number, batch in enumerate(batches):
        if number == len(batches) - 1:
            blocks.begin_turn()
        blocks.add(batch if isinstance(batch, KvBatch) else KvBatch(rank, tuple(batch)))
    return blocks


def test_a_block_that_the_turn_had_to_compute_again_was_evicted():
    blocks = followed([removed(4), removed(3)], [stored(3, 4, parent=2), stored(5, parent=4)])
    assert blocks.lost() == LostBlocks(held=4, removed=2, again=2, covered=40)


def test_nothing_is_known_until_the_turn_stores_a_known_block_again():
    blocks = followed([removed(4)], [stored(5, parent=4)])
    assert blocks.lost() is None
    blocks.add(KvBatch(0, (stored(4, parent=3),)))
    assert blocks.lost() == LostBlocks(held=4, removed=1, again=1, covered=50)


def test_known_blocks_that_were_never_removed_rule_an_eviction_out():
    blocks = followed([], [stored(1, 2, salted=True)])
    assert blocks.lost() == LostBlocks(held=4, covered=40)


def test_a_removed_block_that_the_turn_did_not_need_proves_nothing():
    blocks = followed([removed(4)], [stored(1, salted=True)])
    assert blocks.lost() == LostBlocks(held=4, removed=1, covered=40)


def test_a_second_copy_keeps_a_block_in_the_cache():
    blocks = followed([stored(4, parent=3), removed(4)], [stored(4, parent=3)])
    assert blocks.lost() == LostBlocks(held=4, covered=40)


def test_a_block_whose_parent_is_never_published_leaves_a_gap_in_what_is_known():
    """As with --prefix-match-unit 32 where blocks have 256 tokens."""
    blocks = SessionBlocks()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (stored(1, salted=True, size=256), stored(2, parent=99, size=32))))
    blocks.end_turn()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (removed(2), stored(1, 3, salted=True, size=256))))
    assert blocks.lost() == LostBlocks(held=1, covered=256)


def test_blocks_that_were_not_kept_between_others_leave_a_gap_too():
    blocks = SessionBlocks()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (stored(1, 2, salted=True), stored(4, parent=2, size=None))))
    blocks.end_turn()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (stored(4, parent=2, size=None),)))
    assert blocks.lost() == LostBlocks(held=3, covered=20)


def test_a_cleared_cache_is_no_eviction():
    blocks = followed([AllCleared()], [stored(1, 2, salted=True)])
    assert blocks.lost().cleared
    assert blocks.lost().removed == 0


def test_what_happened_before_the_turn_before_counts_no_more():
    blocks = followed([AllCleared()], [stored(1, 2, 3, 4, salted=True)])
    blocks.end_turn()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (stored(4, parent=3),)))
    assert blocks.lost() == LostBlocks(held=4, covered=40)


def test_after_missed_events_nothing_is_known():
    blocks = followed([removed(4)], [stored(4, parent=3)])
    blocks.miss()
    assert blocks.lost() is None
    assert blocks.incomplete


def test_a_rank_that_never_had_the_blocks_did_not_evict_them():
    blocks = followed([], KvBatch(1, (stored(1, 2, 3, 4, salted=True),)))
    assert blocks.lost() == LostBlocks(held=4, covered=40)
    blocks = followed([removed(4)], KvBatch(1, (stored(1, 2, 3, 4, salted=True),)))
    assert blocks.lost().removed == 0


def test_a_group_whose_first_blocks_are_not_kept_is_known_by_the_hashes_of_another_group():
    blocks = SessionBlocks()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (stored(3, 4, group=1, size=None), stored(1, 2, 3, 4, salted=True))))
    blocks.end_turn()
    blocks.begin_turn()
    blocks.add(KvBatch(0, (removed(4, group=1), stored(4, group=1, size=None))))
    assert blocks.lost() == LostBlocks(held=6, removed=1, again=1, covered=40)


def test_others_blocks_are_not_kept():
    blocks = followed(
        [stored(90, 91), stored(92, parent=91), removed(90)], [stored(93), stored(4, parent=3)]
    )
    kept = {key.hash for key in blocks._copies} | set(blocks._first)
    assert kept == {1, 2, 3, 4}


class _Recorder:
    """Collects what a cache does, as the batch of one step."""

    def __init__(self):
        self.events = []

    def stored(self, keys, parent, _ids, _size, salt):
        self.events.append(BlocksStored(0, tuple(keys), parent, salt == SALT, BLOCK))

    def removed(self, key):
        self.events.append(BlocksRemoved(0, (key,)))

    def cleared(self):
        self.events.append(AllCleared())

    def flush(self, _time):
        raise AssertionError


class _Played:
    """A session and other clients on one cache of the simulator."""

    def __init__(self, num_blocks):
        self.cache = PrefixCache(num_blocks, BLOCK)
        self.cache.events = self.recorder = _Recorder()
        self.blocks = SessionBlocks()
        self.prompt = []

    def request(self, ids, salt):
        """Compute a prompt. Returns the tokens that it hit."""
        holding = Holding(ids, salt)
        hits = self.cache.lookup(holding)
        if self.cache.begin(holding, hits):
            self.cache.extend(holding, len(ids))
            self.cache.release(holding)
        self.tell()
        return len(hits) * BLOCK

    def tell(self):
        self.blocks.add(KvBatch(0, tuple(self.recorder.events)))
        self.recorder.events.clear()

    def turn(self, more):
        """Extend the session. Returns what it hit, should have hit, and had in the cache before."""
        expected = len(self.prompt) // BLOCK
        self.prompt = [*self.prompt, *range(len(self.prompt), len(self.prompt) + more)]
        there = [key in self.cache._by_key for key in self.keys()][:expected]
        self.blocks.begin_turn()
        hit = self.request(self.prompt, SALT)
        lost = self.blocks.lost()
        self.blocks.end_turn()
        return hit // BLOCK, expected, there, lost

    def keys(self):
        probe = Holding(self.prompt, SALT)
        self.cache._extend_keys(probe)
        return probe.keys


STEP = st.one_of(
    st.tuples(st.just("turn"), st.integers(1, 12)),
    st.tuples(st.just("other"), st.integers(4, 60)),
    st.tuples(st.just("reset"), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.integers(40, 60), st.lists(STEP, min_size=3, max_size=25))
def test_events_name_the_cause_of_every_loss_of_a_cache(num_blocks, steps):
    """The cache itself is the oracle: what was in it before the turn, and whether it was reset."""
    played, was_reset = _Played(num_blocks), False
    for number, (kind, size) in enumerate(steps, start=1):
        if kind == "other":
            played.request(list(range(1000 * number, 1000 * number + size)), f"other {number}")
        elif kind == "reset":
            assert played.cache.reset()
            was_reset = True
        elif len(played.prompt) + size < (num_blocks // 2) * BLOCK:
            hit, expected, there, lost = played.turn(size)
            if hit < expected:
                assert lost is not None
                assert lost.covered == expected * BLOCK
                assert lost.cleared is was_reset
                gone = there.count(False)
                assert was_reset or (lost.removed, lost.again) == (gone, gone)
                assert was_reset or lost.held == expected
            elif hit == expected:
                assert lost is None
            was_reset = False
