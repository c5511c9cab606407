"""The feed counts what arrives, notices gaps, and says each change once."""

from __future__ import annotations

from structlog.testing import capture_logs

from exporter.engine.events.feed import KvEventFeed
from exporter.metrics.state.target import TargetState
from exporter.model.kv_events import BlocksStored, KvBatch, KvEventKind

STORED = {KvEventKind.STORED: 1}


def batch(rank=0, *hashes):
    return KvBatch(rank, (BlocksStored(0, hashes, None, True, 16),), STORED)


def new_feed(state=None):
    return KvEventFeed("t", "tcp://e:5557", state or TargetState("t"))


def test_a_gap_is_counted_by_sequence_numbers_for_each_rank():
    feed = new_feed()
    for rank, number in ((0, 7), (1, 0), (0, 8), (1, 1), (0, 12), (1, 2)):
        feed.add(number, batch(rank))
    assert feed.view.missed == 3
    assert feed.view.events[KvEventKind.STORED] == 6


def test_the_first_batch_of_a_subscription_is_no_gap():
    feed = new_feed()
    blocks = feed.follow("salt")
    feed.add(4711, batch(0, 1))
    assert feed.view.missed == 0
    assert blocks.found


def test_a_gap_is_logged_once_per_session():
    feed = new_feed()
    with capture_logs() as logs:
        feed.follow("one")
        for number in (0, 2, 4, 6):
            feed.add(number, batch())
        feed.follow("two")
        feed.add(8, batch())
    missed = [line for line in logs if line["event"] == "kv_events.missed"]
    assert [line["log_level"] for line in missed] == ["warning", "warning"]


def test_a_connection_is_logged_and_published_when_it_changes():
    state = TargetState("t")
    feed = new_feed(state)
    with capture_logs() as logs:
        for connected in (False, True, True, False, False, True):
            feed.set_connected(connected=connected)
        feed.stop()
    assert not feed.view.connected
    assert [line["event"] for line in logs] == [
        "kv_events.connected",
        "kv_events.disconnected",
        "kv_events.connected",
    ]
    assert state.kv_events.connected


def test_a_reload_continues_the_counts():
    before, after = new_feed(), new_feed()
    for number in (0, 2):
        before.add(number, batch())
    after.continue_from(before)
    after.add(100, batch())
    assert (after.view.events[KvEventKind.STORED], after.view.missed) == (3, 1)


def test_only_the_latest_session_is_followed():
    feed = new_feed()
    first, second = feed.follow("one"), feed.follow("two")
    feed.add(0, batch(0, 1, 2))
    assert (first.count, second.count, feed.salt) == (0, 2, "two")
