"""KV events as vLLM encodes them, in the shapes of four releases; tokens and salts are not read."""

from __future__ import annotations

import gc

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from exporter.engine.events.decoding import UnreadableEventsError, decode
from exporter.model.kv_events import AllCleared, BlocksRemoved, BlocksStored, KvBatch, KvEventKind

# Each is KVEventBatch(ts=1.5, events=[BlockStored, BlockRemoved, AllBlocksCleared]) of rank 1,
# encoded by that release: hashes 11 and 12 after 10, tokens 7001 and 7002, salt "salt-of-ours".
ENCODED = {
    "0.10.2": (
        "93cb3ff80000000000009397ab426c6f636b53746f726564920b0c0a92cd1b59cd1b5a10c0a347505593ac426c"
        "6f636b52656d6f766564910ba347505591b0416c6c426c6f636b73436c656172656401"
    ),
    "0.17.1": (
        "93cb3ff80000000000009399ab426c6f636b53746f726564920b0c0a92cd1b59cd1b5a10c0a3475055c09291ac"
        "73616c742d6f662d6f757273c093ac426c6f636b52656d6f766564910ba347505591b0416c6c426c6f636b7343"
        "6c656172656401"
    ),
    "0.22.1": (
        "93cb3ff8000000000000939cab426c6f636b53746f726564920b0c0a92cd1b59cd1b5a10c0a3475055c09291ac"
        "73616c742d6f662d6f757273c001c0c094ac426c6f636b52656d6f766564910ba34750550191b0416c6c426c6f"
        "636b73436c656172656401"
    ),
    "0.32.0": (
        "93cb3ff8000000000000938aa474797065ab426c6f636b53746f726564ac626c6f636b5f686173686573920b0c"
        "b1706172656e745f626c6f636b5f686173680aa9746f6b656e5f69647392cd1b59cd1b5aaa626c6f636b5f7369"
        "7a6510a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0aa65787472615f6b657973"
        "9291ac73616c742d6f662d6f757273c0a967726f75705f6964780184a474797065ac426c6f636b52656d6f7665"
        "64ac626c6f636b5f686173686573910ba66d656469756da3475055a967726f75705f6964780181a474797065b0"
        "416c6c426c6f636b73436c656172656401"
    ),
}
ONE_OF_EACH = {
    KvEventKind.STORED: 1,
    KvEventKind.REMOVED: 1,
    KvEventKind.CLEARED: 1,
    KvEventKind.OTHER: 0,
}


def packed(*events, rank=0):
    return msgspec.msgpack.encode([1.5, list(events), rank])


@pytest.mark.parametrize("release", ENCODED)
def test_the_events_of_each_release_are_read(release):
    batch = decode(bytes.fromhex(ENCODED[release]), "salt-of-ours")
    group = 1 if release in ("0.22.1", "0.32.0") else 0
    salted = release != "0.10.2"  # it publishes no extra keys
    assert batch == KvBatch(
        1,
        (BlocksStored(group, (11, 12), 10, salted), BlocksRemoved(group, (11,)), AllCleared()),
        ONE_OF_EACH,
    )


@pytest.mark.parametrize("salt", [None, "salt-of-our", "salt-of-ours2", "alt-of-ours"])
def test_another_salt_is_not_ours(salt):
    batch = decode(bytes.fromhex(ENCODED["0.32.0"]), salt)
    assert not batch.events[0].salted


def test_hashes_can_be_whole_bytes():
    event = {"type": "BlockRemoved", "block_hashes": [b"\x01" * 32], "medium": "GPU"}
    assert decode(packed(event), None).events == (BlocksRemoved(0, (b"\x01" * 32,)),)


def test_fields_of_a_newer_vllm_are_skipped():
    new_map = {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU", "later": [{}, "x"]}
    new_array = ["BlockRemoved", [1], "GPU", None, None, "later", ["x"]]
    batch = decode(msgspec.msgpack.encode([1.5, [new_map, new_array], 0, "later"]), None)
    assert batch.events == (BlocksRemoved(0, (1,)), BlocksRemoved(0, (1,)))


def test_a_kind_of_a_newer_vllm_is_counted_and_skipped():
    batch = decode(packed({"type": "BlockMoved", "x": 1}, ["BlockMoved", 1], {"no": "type"}), None)
    assert batch.events == ()
    assert batch.counts[KvEventKind.OTHER] == 3


def test_other_tiers_are_counted_and_are_not_the_cache():
    event = {"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"}
    batch = decode(packed(event), None)
    assert batch.events == ()
    assert batch.counts[KvEventKind.REMOVED] == 1


@pytest.mark.parametrize(
    ("hashes", "tokens", "whole"),
    [(1, 16, 16), (4, 64, 16), (5000, 80_000, 16), (2, 64, None), (1, 0, None), (5, 64, None)],
)
@pytest.mark.parametrize("shape", [dict, list])
def test_the_size_of_blocks_is_known_if_none_between_them_is_left_out(shape, hashes, tokens, whole):
    event = {
        "type": "BlockStored",
        "block_hashes": list(range(hashes)),
        "parent_block_hash": None,
        "token_ids": list(range(tokens)),
        "block_size": 16,
    }
    given = event if shape is dict else list(event.values())
    (stored,) = decode(packed(given), None).events
    assert stored.block_tokens == whole


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        packed({"type": "BlockRemoved", "block_hashes": ["canary"]}),
        packed(["BlockStored", "canary"]),
        packed({"type": "BlockStored"}),
        msgspec.msgpack.encode({"canary": 1}),
    ],
)
def test_what_is_no_batch_is_refused_without_a_word_of_it(payload):
    with pytest.raises(UnreadableEventsError) as refused:
        decode(payload, None)
    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-5, 2**64 - 1)
        | st.text(max_size=4)
        | st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "type"]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["type", "block_hashes", "medium", "x"]), inner)
        ),
        max_leaves=12,
    ).map(lambda value: msgspec.msgpack.encode([1.5, [value], 0]))
)
def test_any_message_is_a_batch_or_is_refused(payload):
    try:
        batch = decode(payload, "salt")
    except UnreadableEventsError:
        return
    assert sum(batch.counts.values()) >= len(batch.events)


@pytest.mark.parametrize("shape", ["map", "array"])
def test_no_token_id_and_no_salt_of_anybody_is_kept(shape):
    tokens = list(range(910_000, 910_512))
    salt = "canary-salt-of-a-user"
    stored = {
        "type": "BlockStored",
        "block_hashes": [1, 2],
        "parent_block_hash": None,
        "token_ids": tokens,
        "block_size": 256,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": "canary-adapter",
        "extra_keys": [[salt], None],
    }
    event = stored if shape == "map" else list(stored.values())
    payload = packed(event)
    batch = decode(payload, "ours")
    del payload, stored, event
    tokens = None
    gc.collect()
    assert batch.events == (BlocksStored(0, (1, 2), None, False, 256),)
    held = [each for each in gc.get_objects() if isinstance(each, list) and 910_007 in each[:20]]
    assert held == []
    assert all(isinstance(one, int) for one in batch.events[0].hashes)
