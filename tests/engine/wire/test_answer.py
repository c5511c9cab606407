"""What is read from the chunks of a real stream, and what a refusal means."""

import json
from pathlib import Path

import pytest

from exporter.container.decide.policy import ENGINE_FAILURES
from exporter.engine.wire.refusal import failure_of
from exporter.engine.wire.sse import Decoder
from exporter.engine.wire.surfaces.chat_completions import ChatAnswer, read_usage
from exporter.model.chat import Usage
from exporter.model.failure import RESTS, FailureReason

DATA = Path(__file__).parents[1] / "data"


def recorded(name: str) -> ChatAnswer:
    """A recorded body, taken event by event at times 1, 2, 3…"""
    text = (DATA / name).read_text()
    body = text[text.index("data: ") :].encode()
    answer = ChatAnswer()
    for at, event in enumerate(Decoder().feed(body), start=1):
        answer.add(event.data, float(at))
    return answer


def test_a_recorded_turn_gives_usage_token_ids_and_the_times_of_its_text():
    answer = recorded("stream_turn1.sse.txt")
    assert answer.end() is None
    assert answer.usage == Usage(prompt_tokens=285, completion_tokens=32, cached_tokens=192)
    assert answer.finish_reason == "length"
    assert len(answer.prompt_token_ids) == 285
    assert len(answer.completion_token_ids) == 32
    # The first event has the role alone: time to first token counts from the second.
    assert answer.token_times[0] == 2.0
    assert len(answer.token_times) == 32
    assert answer.message()["content"].startswith(" None index false")


def test_without_the_details_flag_the_cached_tokens_are_unknown_and_not_zero():
    answer = recorded("stream_without_details.sse.txt")
    assert answer.end() is None
    assert answer.usage is not None
    assert answer.usage.cached_tokens is None


def test_null_details_are_unknown_too():
    usage = read_usage({"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": None})
    assert usage.cached_tokens is None


def test_an_engine_that_dies_in_the_stream_is_a_stream_error_in_spite_of_done():
    answer = ChatAnswer()
    answer.add(b'{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}', 1.0)
    answer.add(b'{"error": {"message": "EngineCore encountered an issue.", "code": 500}}', 2.0)
    answer.add(b"[DONE]", 3.0)
    assert answer.end().reason is FailureReason.STREAM_ERROR
    assert "EngineCore" in answer.end().detail


PAUSED = "Generation is paused. Please retry after it resumes."


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (PAUSED, FailureReason.PAUSED),
        ("The model is currently scaling. Please try again.", FailureReason.SCALING),
    ],
)
def test_an_engine_that_is_paused_or_scaled_is_not_called_overloaded(words, reason):
    body = json.dumps({"error": {"message": words, "code": 503}}).encode()
    assert failure_of(503, body).reason is reason
    answer = ChatAnswer()
    answer.add(body, 1.0)
    assert answer.end().reason is reason
    assert RESTS.isdisjoint(ENGINE_FAILURES)


def test_other_messages_with_503_mean_an_overloaded_server():
    assert failure_of(503, b"upstream is full").reason is FailureReason.OVERLOADED
    quoted = json.dumps({"error": {"message": f"no such field in {PAUSED!r}"}}).encode()
    assert failure_of(400, quoted).reason is FailureReason.BAD_REQUEST


def test_an_abort_is_a_failure_although_the_stream_is_complete():
    answer = ChatAnswer()
    answer.add(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"abort"}]}', 1.0)
    answer.add(b"[DONE]", 2.0)
    assert answer.end().reason is FailureReason.ABORTED


def test_a_stream_without_done_was_cut():
    answer = ChatAnswer()
    answer.add(b'{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}', 1.0)
    assert answer.end().reason is FailureReason.STREAM_CUT


@pytest.mark.parametrize(
    "data",
    [
        *(b"{", b"[]", b"7", b'{"choices": 3}', b'{"choices": ["x"]}'),
        b'{"choices": [{"delta": {"tool_calls": [{"function": {"arguments": 7}}]}}]}',
    ],
)
def test_a_chunk_of_unknown_shape_is_a_protocol_failure_and_not_an_exception(data):
    answer = ChatAnswer()
    assert answer.add(data, 1.0) is False
    assert answer.end().reason is FailureReason.PROTOCOL
    assert "Error" not in answer.end().detail


def test_reasoning_counts_as_the_first_token_but_stays_out_of_the_history():
    answer = ChatAnswer()
    assert answer.add(b'{"choices":[{"delta":{"reasoning_content":"hm"}}]}', 1.0)
    assert answer.add(b'{"choices":[{"delta":{"content":"yes"}}]}', 2.0)
    assert answer.token_times == [1.0, 2.0]
    assert answer.message() == {"role": "assistant", "content": "yes"}


def test_a_tool_call_is_put_together_from_its_pieces():
    answer = ChatAnswer()
    pieces = [
        {"index": 0, "id": "call_1", "function": {"name": "search", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
    ]
    for at, piece in enumerate(pieces):
        chunk = {"choices": [{"delta": {"tool_calls": [piece]}}]}
        assert answer.add(json.dumps(chunk).encode(), float(at))
    assert answer.message()["tool_calls"] == [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "search", "arguments": '{"a": 1}'},
        }
    ]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b'{"error":"Unauthorized"}', FailureReason.UNAUTHORIZED),
        (403, b"", FailureReason.UNAUTHORIZED),
        (
            404,
            b'{"error":{"message":"The model `nope` does not exist.","param":"model","code":404}}',
            FailureReason.MODEL_NOT_FOUND,
        ),
        (404, b'{"detail":"Not Found"}', FailureReason.PROTOCOL),
        (
            400,
            b'{"error":{"message":"too long","param":"input_tokens","code":400}}',
            FailureReason.PROMPT_TOO_LONG,
        ),
        (
            400,  # vLLM 0.8.5
            b'{"object":"error","message":"This model\'s maximum context length is 8 tokens."}',
            FailureReason.PROMPT_TOO_LONG,
        ),
        (400, b'{"error":{"message":"max_tokens must be at least 1"}}', FailureReason.BAD_REQUEST),
        (
            400,
            b'{"error":{"message":"max_tokens must be at least 1, got 0.","param":"max_tokens"}}',
            FailureReason.PROMPT_TOO_LONG,
        ),
        (429, b"slow down", FailureReason.OVERLOADED),
        (503, b"", FailureReason.OVERLOADED),
        (500, b'{"error":{"message":"EngineCore"}}', FailureReason.SERVER_ERROR),
        (502, b"<html>bad gateway</html>", FailureReason.SERVER_ERROR),
        (302, b"", FailureReason.PROTOCOL),
        (204, b"\xff\xfe", FailureReason.PROTOCOL),
    ],
)
def test_each_refusal_has_its_reason(status, body, reason):
    failure = failure_of(status, body)
    assert failure.reason is reason
    assert failure.detail.startswith(f"HTTP {status}")


def test_a_long_error_is_cut_before_it_reaches_a_log():
    body = json.dumps({"error": {"message": "x" * 5000}}).encode()
    assert len(failure_of(500, body).detail) < 400


def test_a_chunk_adds_its_token_ids_without_copying_those_before_it():
    answer = ChatAnswer()
    logprobs = {"content": [{"token": "token_id:7"}]}
    chunk = json.dumps({"choices": [{"token_ids": [7], "logprobs": logprobs}]}).encode()
    answer.add(chunk, 1.0)
    ids, logprob_ids = answer.completion_token_ids, answer.logprob_token_ids
    answer.add(chunk, 2.0)
    # Copying took 17 s for 100,000 chunks, and four times as long for twice as many.
    assert answer.completion_token_ids is ids
    assert answer.logprob_token_ids is logprob_ids
    assert ids == logprob_ids == [7, 7]


def test_tool_calls_without_end_are_a_failure():
    answer = ChatAnswer()
    pieces = [{"index": number, "function": {"name": "f"}} for number in range(20_000)]
    answer.add(json.dumps({"choices": [{"delta": {"tool_calls": pieces}}]}).encode(), 1.0)
    assert answer.failure.reason is FailureReason.PROTOCOL
