"""The event decoder gives the same events for any cut of the bytes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from exporter.engine.wire.sse import Decoder, Event

STREAM = b"data: one\n\n: a comment\r\nevent: x\r\ndata: two\r\ndata:three\r\n\r\ndata: [DONE]\r\r"


def decode(*chunks: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def test_lines_of_one_event_are_joined_and_other_fields_are_skipped():
    assert [event.data for event in decode(STREAM, b"\n")] == [b"one", b"two\nthree", b"[DONE]"]


def test_an_event_ends_with_the_last_byte_of_its_data_line():
    assert decode(b"data: one\n\ndata: two\n\n") == [Event(b"one", 10), Event(b"two", 21)]


def test_an_unfinished_event_is_not_delivered():
    assert decode(b"data: one\n\ndata: tw") == [Event(b"one", 10)]


def test_a_byte_order_mark_is_dropped_even_when_it_comes_in_pieces():
    assert decode(b"\xef", b"\xbb\xbfdata: x\n\n") == [Event(b"x", 11)]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_cuts_between_chunks_change_nothing(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert decode(*chunks, b"\n") == decode(STREAM, b"\n")


@given(
    payloads=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).map(str.encode), min_size=1
    )
)
def test_an_event_is_read_as_it_was_written(payloads):
    stream = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    assert [event.data for event in decode(stream)] == payloads


@given(noise=st.binary(max_size=200))
def test_any_bytes_are_decoded_without_an_error(noise):
    for event in decode(noise):
        assert event.end <= len(noise)


def test_the_kept_part_of_a_line_is_neither_copied_nor_searched_again():
    decoder = Decoder()
    kept = decoder._pending
    for count in range(1, 5):
        assert decoder.feed(b"x" * 256) == []
        assert decoder._pending is kept
        assert decoder._searched == len(kept) == 256 * count
