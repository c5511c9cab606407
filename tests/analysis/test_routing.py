"""Which replica computed a request, by the growth of the replicas' counters."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from publish_records import snapshot

from exporter.analysis.hits.routing import Hop, hop, possible_replicas, replica_of
from exporter.engine.metrics.snapshots import of_replicas
from exporter.model.chat import Usage
from exporter.model.engine import replica_key, replica_name

KEYS = tuple(replica_key(f"replica-{number}") for number in range(4))


def page(prompt, hits, start=1.0):
    return replace(
        snapshot(),
        prompt_tokens=float(prompt),
        queried_tokens=float(prompt),
        hit_tokens=float(hits),
        cached_prompt_tokens=float(hits),
        process_start_time=start,
    )


def reading(*counts, unread=()):
    return of_replicas(
        {key: page(*count) for key, count in zip(KEYS, counts, strict=False)},
        {KEYS[number]: "no answer" for number in unread},
    )


@given(
    counts=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=4
    ),
    at=st.integers(0, 3),
    prompt=st.integers(1, 10**5),
    data=st.data(),
)
def test_a_request_that_ran_alone_is_placed_where_it_ran(counts, at, prompt, data):
    at %= len(counts)
    cached = data.draw(st.integers(0, prompt - 1))
    before = reading(*counts)
    grown = list(counts)
    grown[at] = (counts[at][0] + prompt, counts[at][1] + cached)
    assert replica_of(before, reading(*grown), Usage(prompt, 1, cached)) == KEYS[at]


@given(
    prompt=st.integers(1, 1000),
    foreign=st.lists(st.integers(0, 2000), min_size=2, max_size=4),
    at=st.integers(0, 3),
)
def test_traffic_of_others_never_places_a_request_where_it_did_not_run(prompt, foreign, at):
    at %= len(foreign)
    before = reading(*((0, 0) for _ in foreign))
    after = reading(*((own + prompt * (n == at), 0) for n, own in enumerate(foreign)))
    assert replica_of(before, after, Usage(prompt, 1, 0)) in (KEYS[at], None)


def test_a_request_that_no_counter_includes_yet_is_nowhere():
    still = reading((10, 0), (20, 0))
    assert possible_replicas(still, still, Usage(5, 1, 0)) == set()
    assert replica_of(still, still, Usage(5, 1, 0)) is None


def test_hits_tell_two_replicas_apart_that_computed_as_much():
    before, after = reading((0, 0), (0, 0)), reading((100, 64), (100, 0))
    assert replica_of(before, after, Usage(100, 1, 64)) == KEYS[0]


def test_a_hit_in_a_store_is_a_hit_of_the_replica_that_loaded_it():
    outside = replace(page(100, 0), cached_prompt_tokens=64.0, external_hit_tokens=64.0)
    before = of_replicas({KEYS[0]: replace(page(0, 0), external_hit_tokens=0.0)}, {})
    after = of_replicas({KEYS[0]: outside}, {})
    assert replica_of(before, after, Usage(100, 1, 64)) == KEYS[0]


def test_nothing_is_certain_while_a_replica_cannot_be_read_or_has_restarted():
    usage = Usage(100, 1, 0)
    assert replica_of(reading((0, 0), unread=[1]), reading((100, 0), unread=[1]), usage) is None
    restarted = reading((100, 0), (0, 0, 2.0))
    assert replica_of(reading((0, 0), (0, 0)), restarted, usage) is None


def test_the_way_from_one_turn_to_the_next():
    assert hop("a", "a") is Hop.SAME_REPLICA
    assert hop("a", "b") is Hop.OTHER_REPLICA
    assert hop(None, "b") is hop("a", None) is Hop.UNKNOWN
    assert replica_name(KEYS[0]) == "replica-0"
    assert replica_name(()) is replica_name(None) is replica_name((("pod", "x"),)) is None
