"""A streamed answer becomes the answer that the API gives without a stream."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.model.recorded import Api
from exporter.recording.answers import StreamedAnswer, whole_answer

CHAT = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"reasoning": "h"}}]},
    {"choices": [{"index": 0, "delta": {"reasoning": "m"}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "function": {"arguments": '{"a"'}}]}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "function": {"arguments": ":1}"}}]}}]},
    {"choices": [], "usage": {"prompt_tokens": 3}},
]  # fmt: skip
MESSAGES = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 0}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking",
        "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta",
        "thinking": "hm"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c",
        "name": "f", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta",
        "partial_json": '{"a"'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta",
        "partial_json": ":1}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
]  # fmt: skip
OUTPUT = [{"type": "message", "role": "assistant", "content": [{"type": "output_text"}]}]
RESPONSES = [
    {"type": "response.created", "response": {"id": "r", "output": []}},
    {"type": "response.output_text.delta", "delta": "h"},
    {"type": "response.completed", "response": {"output": OUTPUT, "usage": {"input_tokens": 3}}},
]
ANSWERS = {
    Api.CHAT: (CHAT, {
        "choices": [{"message": {"role": "assistant", "content": "", "reasoning": "hm",
            "tool_calls": [{"type": "function", "id": "c",
                "function": {"name": "f", "arguments": '{"a":1}'}}]}}],
        "usage": {"prompt_tokens": 3}}),
    Api.MESSAGES: (MESSAGES, {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm"},
            {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}],
        "usage": {"input_tokens": 3, "output_tokens": 5}}),
    Api.RESPONSES: (RESPONSES, {"output": OUTPUT, "usage": {"input_tokens": 3}}),
}  # fmt: skip


def stream(events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.mark.parametrize("api", ANSWERS)
def test_the_events_of_each_api_become_one_answer(api):
    events, whole = ANSWERS[api]
    answer = StreamedAnswer(api)
    answer.feed(stream(events) + b"data: [DONE]\n\n")
    assert answer.response() == whole


@given(st.sampled_from(list(ANSWERS)), st.lists(st.integers(0, 2000), max_size=8))
def test_the_parts_in_which_a_stream_comes_do_not_matter(api, cuts):
    events, whole = ANSWERS[api]
    data = stream(events)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    answer = StreamedAnswer(api)
    for start, end in pairwise(places):
        answer.feed(data[start:end])
    assert answer.response() == whole


@pytest.mark.parametrize("api", ANSWERS)
def test_an_answer_of_which_nothing_came_is_none(api):
    assert StreamedAnswer(api).response() is None


def test_of_a_whole_answer_message_and_usage_are_kept():
    body = {"id": "x", "choices": [{"index": 0, "message": {"content": "a"}}], "usage": {"n": 1}}
    kept = {"choices": [{"message": {"content": "a"}}], "usage": {"n": 1}}
    assert whole_answer(json.dumps(body).encode(), Api.CHAT) == kept
    assert whole_answer(b"no json", Api.CHAT) is None


@given(st.sampled_from(list(ANSWERS)), st.lists(st.recursive(
    st.none() | st.integers(0, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "delta", "index", "tool_calls", "function", "arguments", "usage", "message",
         "content_block", "type", "response", "output", "content", "text"]), inner, max_size=4),
    max_leaves=15), max_size=6))  # fmt: skip
def test_any_events_are_survived(api, events):
    answer = StreamedAnswer(api)
    answer.feed(stream(events))
    answer.response()
    whole_answer(json.dumps(events[:1]).encode(), api)
