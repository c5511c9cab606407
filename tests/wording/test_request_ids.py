"""The request ids of turns that were slow or failed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from publish_records import failed_session, session, turn

from exporter.analysis.session_totals import slow_turns
from exporter.wording.request_ids import requests_to_look_up
from exporter.wording.verdict import notes


def played(*ttfts: float):
    return tuple(
        replace(turn(index, 100, 64, 64, ttft=ttft), request_id=f"id{index}")
        for index, ttft in enumerate(ttfts, start=1)
    )


def test_a_slow_turn_is_named_with_its_request_id():
    result = session(*played(2.0, 0.1, 0.1, 0.1, 0.9, 0.1))
    (said,) = requests_to_look_up(result)
    assert said == (
        "Turn 5 was slow: 900 ms to the first token, where the median of the later turns is "
        "100 ms. Its request id is id5: vLLM's log has it as chatcmpl-id5 if it runs with "
        "--enable-log-requests."
    )
    assert said in notes(result)


def test_a_first_turn_and_small_or_steady_times_are_not_slow():
    assert slow_turns(played(9.0, 0.1, 0.1, 0.1, 0.1)) == []
    assert slow_turns(played(0.1, 0.01, 0.01, 0.01, 0.19)) == []
    assert slow_turns(played(0.1, 5.0, 5.0, 5.0, 5.0)) == []
    assert slow_turns(played(0.1, 0.1, 9.0)) == []  # too few to have a usual time


@given(st.lists(st.floats(0.001, 100), min_size=5, max_size=20))
def test_fewer_than_half_of_the_turns_are_slow(ttfts):
    assert len(slow_turns(played(*ttfts))) < len(ttfts) / 2


def test_a_failed_turn_is_named_with_its_request_id():
    result = replace(failed_session(*played(0.1, 0.1)), failed_turn=3, failed_request_id="id3")
    (said,) = requests_to_look_up(result)
    assert said == (
        "The request of turn 3 failed. Its id is id3: vLLM's log has it as chatcmpl-id3 if it runs "
        "with --enable-log-requests."
    )


def test_an_unknown_id_is_not_named():
    slow = [replace(each, request_id=None) for each in played(0.1, 0.1, 0.1, 0.1, 0.9, 0.1)]
    assert requests_to_look_up(session(*slow)) == []
    assert requests_to_look_up(failed_session(*slow[:2])) == []
