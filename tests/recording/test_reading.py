"""Recordings of many kinds become requests of one form; what is no request is counted."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_json import JSON

from exporter.errors import RecordingError
from exporter.model.recorded import Api
from exporter.recording import reading
from exporter.recording.reading import read_recording

TALK = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
BODY = {"model": "m", "messages": TALK}
SAID = {"role": "assistant", "content": "a"}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 4},
}
CHAT = {"choices": [{"message": SAID}], "usage": USAGE}


def read(*records):
    return read_recording([json.dumps(one).encode() + b"\n" for one in records], "log")


def only(record):
    (one,) = read(record).requests
    return one


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"request": BODY, "response": CHAT}, id="capture"),
        pytest.param(
            {"method": "POST", "url": "/v1/chat/completions", "body": BODY,
             "response": {"body": CHAT}}, id="a line of a batch"),
        pytest.param({**BODY, "call_type": "acompletion", "response": CHAT}, id="LiteLLM"),
        pytest.param(
            {"model": "m", "input": TALK, "output": SAID, "type": "GENERATION"}, id="Langfuse"),
        pytest.param(
            {"request": {"url": "http://x/v1/chat/completions",
                         "postData": {"text": json.dumps(BODY)}}, "response": CHAT}, id="HAR"),
    ],
)  # fmt: skip
def test_records_of_every_kind_give_the_same_request(record):
    one = only(record)
    assert one.api is Api.CHAT
    assert one.model == "m"
    assert [(message.role, message.text("content")) for message in one.messages] == [
        ("system", "s"),
        ("user", "q"),
    ]
    assert [message.text("content") for message in one.answer] == ["a"]


def test_usage_has_the_names_of_each_api():
    anthropic = {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}
    items = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
    said = [
        only({"request": BODY, "response": CHAT}),
        only({"request": BODY, "response": {"usage": {**anthropic, "output_tokens": 2}}}),
        only({"request": BODY, "response": {"output": [], "usage": items}}),
    ]
    known = {
        (u.prompt_tokens, u.completion_tokens, u.cached_tokens) for u in (x.usage for x in said)
    }
    assert known == {(9, 2, 4)}


def test_cached_tokens_that_no_one_told_are_unknown():
    usage = only({"request": BODY, "response": {"usage": {"input_tokens": 3}}}).usage
    assert (usage.prompt_tokens, usage.cached_tokens) == (3, None)


def test_the_three_apis_are_told_apart_by_their_fields():
    blocks = [{"role": "user", "content": [{"type": "tool_result", "content": "r"}]}]
    bodies = {
        Api.CHAT: BODY,
        Api.MESSAGES: {"model": "m", "system": "s", "messages": TALK[1:]},
        Api.RESPONSES: {"model": "m", "instructions": "s", "input": "q"},
    }
    assert {api: only(body).api for api, body in bodies.items()} == {api: api for api in bodies}
    assert only({"model": "m", "messages": blocks}).api is Api.MESSAGES


def test_a_path_decides_where_the_fields_do_not():
    assert only({"path": "/v1/messages", "request": {"model": "m", "messages": TALK[1:]}}).api is (
        Api.MESSAGES
    )


@pytest.mark.parametrize("given", ["go", [{"role": "user", "content": "go"}]])
def test_a_path_makes_a_plain_input_a_request_of_responses(given):
    one = only({"path": "/v1/responses", "request": {"model": "m", "input": given}})
    assert one.api is Api.RESPONSES
    assert [(m.role, m.fields) for m in one.messages] == [("user", (("content", "go"),))]


def test_requests_are_in_the_order_of_their_times_if_all_are_known():
    timed = [{"timestamp": f"2026-01-01T10:0{n}:00Z", "request": BODY} for n in (3, 1, 2)]
    assert [one.place for one in read(*timed).requests] == ["line 2", "line 3", "line 1"]
    assert [one.place for one in read(*timed, BODY).requests] == [
        "line 1", "line 2", "line 3", "line 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "refused",
    [
        {"request": BODY, "response": {"status_code": 429, "body": {}}},
        {"request": BODY, "status": "failure"},
        {"log": {"entries": [{"request": BODY, "response": {"status": 503, "content": {}}}]}},
    ],
)
def test_a_request_that_was_refused_is_counted_and_not_used(refused):
    with pytest.raises(RecordingError, match="was refused"):
        read(refused)


def test_an_empty_text_is_no_field():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    for content in ("", None, []):
        said = {"role": "assistant", "content": content, "tool_calls": [call]}
        fields = only({"model": "m", "messages": [*TALK, said]}).messages[-1].fields
        assert [name for name, _ in fields] == ["tool_calls[0].name", "tool_calls[0].arguments"]


STREAM = 'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    "content",
    [
        {"text": json.dumps(CHAT)},
        {"text": base64.b64encode(json.dumps(CHAT).encode()).decode(), "encoding": "base64"},
        {"text": STREAM, "mimeType": "text/event-stream; charset=utf-8"},
    ],
)
def test_an_answer_of_a_har_file_may_be_base64_or_a_stream(content):
    request = {"url": "http://engine/v1/chat/completions", "postData": {"text": json.dumps(BODY)}}
    entry = {"request": request, "response": {"status": 200, "content": content}}
    one = only({"log": {"entries": [entry]}})
    assert [message.text("content") for message in one.answer] == ["a"]


def test_items_of_responses_are_messages_of_their_roles():
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "name": "f", "arguments": '{"a":  1}', "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "3"},
    ]
    one = only({"model": "m", "input": items, "store": False})
    assert [(m.role, m.fields) for m in one.messages] == [
        ("user", (("content", "q"),)),
        ("assistant", (("reasoning", "hm"),)),
        ("assistant", (("tool_calls[0].name", "f"), ("tool_calls[0].arguments", '{"a": 1}'))),
        ("tool", (("content", "3"),)),
    ]


def test_equal_messages_of_two_requests_are_one_object():
    first, second = read(BODY, {**BODY, "messages": [*TALK, SAID]}).requests
    assert first.messages[0] is second.messages[0]
    assert first.body["messages"][0] is second.body["messages"][0]


def test_bad_lines_are_counted_and_good_ones_used():
    lines = [
        b'{"model": \n',
        json.dumps(BODY).encode() + b"\n",
        b"\n",
        b"\xff\xfe\n",
        b'{"a": 1}\n',
    ]
    recording = read_recording(lines, "log")
    assert [one.place for one in recording.requests] == ["line 2"]
    assert {one.place: one.reason for one in recording.skipped} == {
        "line 1": "is not JSON",
        "line 4": "is not JSON",
        "line 5": "has no messages and no input",
    }


def test_a_file_that_ends_in_the_middle_of_a_line_keeps_the_others():
    whole = json.dumps(BODY).encode() + b"\n"
    recording = read_recording([whole, whole[:20]], "log")
    assert len(recording.requests) == 1
    assert [(one.place, one.reason) for one in recording.skipped] == [("line 2", "is not JSON")]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (json.dumps([BODY, BODY], indent=1), ["record 1", "record 2"]),
        (json.dumps(BODY, indent=1), ["the file"]),
        (json.dumps({"log": {"entries": [{"request": BODY}]}}, indent=1), ["entry 1"]),
    ],
)
def test_one_json_value_over_many_lines_is_read(text, places):
    recording = read_recording(text.encode().splitlines(keepends=True), "log")
    assert [one.place for one in recording.requests] == places


def test_a_line_beyond_the_limit_is_not_read(monkeypatch):
    monkeypatch.setattr(reading, "MOST_LINE_BYTES", 200)
    long = json.dumps({**BODY, "padding": "x" * 300}).encode()
    recording = read_recording([long + b"\n", json.dumps(BODY).encode() + b"\n"], "log")
    assert [one.place for one in recording.requests] == ["line 2"]
    assert recording.skipped[0].place == "line 1"


def test_a_conversation_that_only_the_server_has_is_not_guessed():
    body = {"model": "m", "input": "more", "previous_response_id": "r1"}
    with pytest.raises(RecordingError, match=r"line 1.*previous_response_id"):
        read(body)


def test_a_file_without_a_request_is_an_error_that_names_file_and_line():
    with pytest.raises(
        RecordingError, match=r"^log: has no request of /v1/chat/completions.*line 1"
    ):
        read({"a": 1})
    with pytest.raises(RecordingError, match="it is empty"):
        read_recording([], "log")


TIMES = [
    ({"time": 1764500000.5}, 1764500000.5),
    ({"start_time": 1764500000500}, 1764500000.5),
    ({"startedDateTime": "2025-11-30T10:53:20.500Z"}, 1764500000.5),
    ({"timestamp": "soon"}, None),
    ({"time": 12}, None),
]


@pytest.mark.parametrize(("around", "seconds"), TIMES)
def test_times_are_seconds_since_1970(around, seconds):
    assert only({**around, "request": BODY}).time == seconds


@given(st.lists(JSON, max_size=4))
def test_any_json_gives_requests_or_a_sentence(values):
    try:
        recording = read(*values)
    except RecordingError as error:
        assert "has no request" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert all(one.messages for one in recording.requests)


@given(st.binary(max_size=200))
def test_any_bytes_give_requests_or_a_sentence(data):
    with pytest.raises(RecordingError):
        read_recording(data.splitlines(keepends=True), "log")
