"""The subscription to an engine's KV events, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import pytest
import zmq
from kv_event_bench import free_ports, receiving, until

from exporter.engine.events.subscriber import address_of
from exporter.model.kv_events import KvEventKind, LostBlocks

STORED = {"type": "BlockStored", "parent_block_hash": None, "block_size": 2, "medium": "GPU"}


class Publisher:
    """An engine's socket: it sends what it is told, with sequence numbers."""

    def __init__(self, port, rank=0, host="127.0.0.1"):
        self.socket = zmq.Context.instance().socket(zmq.PUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IPV6, 1)
        self.socket.bind(f"tcp://{host}:{port}")
        self.rank, self.sequence = rank, 0

    def send(self, *events):
        payload = msgspec.msgpack.encode([1.5, list(events), self.rank])
        self.send_raw(payload)

    def send_raw(self, payload):
        number = self.sequence.to_bytes(8, "big")
        self.sequence += 1
        self.socket.send_multipart((b"topic", number, payload))


@contextlib.contextmanager
def publishing(port, rank=0, host="127.0.0.1"):
    publisher = Publisher(port, rank, host)
    try:
        yield publisher
    finally:
        publisher.socket.close()


def stored(*hashes, parent=None, salt="ours"):
    return {
        **STORED,
        "block_hashes": list(hashes),
        "parent_block_hash": parent,
        "token_ids": [1, 1] * len(hashes),
        "extra_keys": [[salt]] if parent is None else None,
    }


def removed(*hashes):
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"}


async def subscribed(feed, *publishers):
    """Wait until what each publisher sends arrives: it forwards nothing before it knows of us."""
    for publisher in publishers:
        before = feed.view.events[KvEventKind.OTHER]
        async with asyncio.timeout(10):
            while feed.view.events[KvEventKind.OTHER] == before:
                publisher.send({"type": "Hello"})
                await asyncio.sleep(0.01)


@pytest.fixture
def port():
    return free_ports(2)


async def test_a_session_follows_its_blocks(port):
    with publishing(port) as engine:
        async with receiving(f"tcp://127.0.0.1:{port}") as feed:
            await subscribed(feed, engine)
            blocks = feed.follow("ours")
            blocks.begin_turn()
            engine.send(stored(7, 8, salt="another's"), stored(1, 2))
            engine.send(removed(7), removed(2))
            await until(lambda: feed.view.events[KvEventKind.REMOVED] == 2)
            blocks.begin_turn()
            engine.send(stored(2, parent=1))
            await until(lambda: blocks.lost() is not None)
            assert blocks.lost() == LostBlocks(held=2, removed=1, again=1, covered=4)
            assert feed.view.events == {
                "stored": 3,
                "removed": 2,
                "cleared": 0,
                "other": feed.view.events["other"],
            }
            assert feed.view.missed == 0


async def test_an_ipv6_address_is_reached(port):
    with publishing(port, host="[::1]") as engine:
        async with receiving(f"tcp://[::1]:{port}") as feed:
            await subscribed(feed, engine)
            assert feed.connected


async def test_a_name_that_nobody_knows_is_waited_for():
    async with receiving_soon("tcp://no-such-host.invalid:5557") as feed:
        await asyncio.sleep(0.2)
        assert not feed.connected


async def test_a_batch_that_did_not_arrive_is_a_gap(port):
    with publishing(port) as engine:
        async with receiving(f"tcp://127.0.0.1:{port}") as feed:
            await subscribed(feed, engine)
            blocks = feed.follow("ours")
            engine.send(stored(1))
            engine.sequence += 3
            engine.send(stored(2, parent=1))
            await until(lambda: feed.view.missed == 3)
            assert blocks.incomplete


async def test_a_batch_that_cannot_be_read_is_a_gap_that_counts_once(port):
    with publishing(port) as engine:
        async with receiving(f"tcp://127.0.0.1:{port}") as feed:
            await subscribed(feed, engine)
            blocks = feed.follow("ours")
            engine.send_raw(b"\xc1 canary")
            engine.send(stored(1))
            await until(lambda: feed.view.events[KvEventKind.STORED] == 1)
            assert feed.view.missed == 1
            assert blocks.incomplete


async def test_a_connection_that_was_lost_without_a_batch_is_no_gap(port):
    url = f"tcp://127.0.0.1:{port}"
    async with receiving_soon(url) as feed:
        with publishing(port) as engine:
            await until(lambda: feed.connected)
            await subscribed(feed, engine)
            number = engine.sequence
        await until(lambda: not feed.connected)
        with publishing(port) as engine:
            engine.sequence = number
            await until(lambda: feed.connected)
            await asyncio.sleep(0.3)  # for the subscription, which nothing shows
            engine.send(stored(1))
            await until(lambda: feed.view.events[KvEventKind.STORED] == 1)
            assert feed.view.missed == 0


async def test_a_new_process_begins_at_0_and_leaves_no_evidence_of_before(port):
    async with receiving_soon(f"tcp://127.0.0.1:{port}") as feed:
        with publishing(port) as engine:
            await until(lambda: feed.connected)
            await subscribed(feed, engine)
            blocks = feed.follow("ours")
            engine.send(stored(1))
            await until(lambda: blocks.found)
        await until(lambda: not feed.connected)
        with publishing(port) as engine:
            await until(lambda: feed.connected)
            await subscribed(feed, engine)
            assert blocks.incomplete


async def test_each_rank_has_a_port_and_sequence_numbers_of_its_own(port):
    with publishing(port) as first, publishing(port + 1, rank=1) as second:
        async with receiving(f"tcp://127.0.0.1:{port}", ranks=2) as feed:
            await subscribed(feed, first, second)
            blocks = feed.follow("ours")
            blocks.begin_turn()
            first.send(stored(1))
            await until(lambda: blocks.found)
            blocks.begin_turn()
            second.send(stored(1))
            await until(lambda: blocks.lost() is not None)
            assert blocks.lost() == LostBlocks(held=1, covered=2), "the other rank removed nothing"
            assert feed.view.missed == 0


@pytest.mark.parametrize(
    ("url", "rank", "address"),
    [
        ("tcp://engine:5557", 0, "tcp://engine:5557"),
        ("tcp://engine:5557", 3, "tcp://engine:5560"),
        ("tcp://[::1]:5557", 1, "tcp://[::1]:5558"),
        ("ipc:///run/events", 1, "ipc:///run/events"),
    ],
)
def test_the_port_of_a_rank_is_the_first_one_plus_its_number(url, rank, address):
    assert address_of(url, rank) == address


def receiving_soon(url):
    """The same before anything is published there."""
    return receiving(url, wait=False)
