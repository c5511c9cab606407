"""How each API carries a chat: its body, and what is read from a real stream of vLLM 0.32.0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from exporter.config.schema.settings import ProbeSettings
from exporter.engine.wire.refusal import read_refusal
from exporter.engine.wire.request import ChatRequest
from exporter.engine.wire.sse import Decoder
from exporter.engine.wire.surfaces import messages, responses
from exporter.engine.wire.surfaces.messages import MessagesAnswer
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.engine.wire.surfaces.responses import ResponsesAnswer
from exporter.model.chat import Usage
from exporter.model.failure import FailureReason

DATA = Path(__file__).parents[1] / "data"
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look", "parameters": {"type": "object"}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
HISTORY = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is at x?"},
    {"role": "assistant", "content": "I look.", "reasoning": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    {"role": "tool", "tool_call_id": "c2", "content": "a dog"},
    {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
)
REQUEST = ChatRequest("m", HISTORY, 4, cache_salt="s", tools=(TOOL,))


def recorded(name: str, answer):
    """A recorded body, taken event by event at times 1, 2, 3…"""
    for at, event in enumerate(Decoder().feed((DATA / name).read_bytes()), start=1):
        answer.add(event.data, float(at))
    return answer


def taken(answer, *events):
    for at, event in enumerate(events, start=1):
        answer.add(json.dumps(event).encode(), float(at))
    return answer


def test_the_setting_names_the_surfaces():
    assert set(get_args(ProbeSettings.model_fields["api"].annotation)) == set(SURFACES)


def test_a_request_of_messages_has_anthropics_form():
    assert messages.body(REQUEST) == {
        "model": "m",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "What is at x?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "x"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "a cat"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "a dog"},
                ],
            },
            {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
        ],
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "cache_salt": "s",
        "tools": [{"name": "look", "description": "Look", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "none"},
    }


def test_a_request_of_responses_has_items_and_keeps_nothing_on_the_server():
    assert responses.body(REQUEST) == {
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": "What is at x?"},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm."}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I look."}],
            },
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "look",
                "arguments": '{"at": "x"}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {"type": "function_call_output", "call_id": "c2", "output": "a dog"},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "And now?"}],
            },
        ],
        "max_output_tokens": 4,
        "temperature": 0,
        "stream": True,
        "store": False,
        "enable_response_messages": True,
        "cache_salt": "s",
        "tools": [
            {
                "type": "function",
                "name": "look",
                "description": "Look",
                "parameters": {"type": "object"},
            }
        ],
        "tool_choice": "none",
    }


@pytest.mark.parametrize("surface", [messages, responses])
def test_an_answer_without_a_word_stays_a_message_of_its_own(surface):
    request = ChatRequest("m", [HISTORY[1], {"role": "assistant", "content": ""}, HISTORY[1]], 4)
    body = surface.body(request)
    assert len(body.get("messages") or body["input"]) == 3


def test_a_call_that_broke_off_has_no_input_on_messages():
    cut = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": "'}}
    request = ChatRequest("m", [{"role": "assistant", "content": "", "tool_calls": [cut]}], 4)
    (sent,) = messages.body(request)["messages"]
    assert sent["content"] == [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]
    (same,) = messages.rendered(request.messages)
    assert same["tool_calls"][0]["function"]["arguments"] == "{}"
    assert "content" not in same


def test_of_messages_the_prompt_is_what_was_read_and_written_and_the_rest():
    answer = recorded("messages_text.sse.txt", MessagesAnswer())
    assert answer.end() is None
    assert answer.usage == Usage(prompt_tokens=87, completion_tokens=4, cached_tokens=64)
    assert answer.finish_reason == "length"
    assert answer.token_times == [3.0, 4.0, 5.0, 6.0], "neither the start nor a block's begin"
    assert answer.pieces() == (" newline",) * 4
    assert answer.message() == {"role": "assistant", "content": " newline" * 4}


def test_of_responses_the_last_event_has_usage_and_the_ids_of_prompt_and_answer():
    answer = recorded("responses_text.sse.txt", ResponsesAnswer())
    assert answer.end() is None
    assert answer.usage == Usage(prompt_tokens=87, completion_tokens=4, cached_tokens=64)
    assert answer.finish_reason == "length"
    assert len(answer.prompt_token_ids) == 87
    assert answer.completion_token_ids == [1903] * 4
    assert answer.message()["content"] == " newline" * 4
    assert answer.token_times[0] == 5.0, "the four events before it have no text"


@pytest.mark.parametrize(
    ("name", "answer"),
    [("messages_tool.sse.txt", MessagesAnswer()), ("responses_tool.sse.txt", ResponsesAnswer())],
)
def test_a_call_is_put_together_and_its_name_is_the_first_text(name, answer):
    recorded(name, answer)
    (call,) = answer.message()["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert call["function"]["arguments"].startswith('" that tuple they')
    assert call["id"].startswith("chatcmpl-tool-")
    assert len(answer.token_times) == 1 + len(answer._tool_calls.popitem()[1].arguments)
    assert answer.pieces() is None


def message(kind, **fields):
    return {"type": kind, **fields}


def test_thoughts_go_back_as_they_came_and_count_as_text():
    answer = taken(
        MessagesAnswer(),
        message("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm"}),
        message(
            "content_block_delta", index=0, delta={"type": "signature_delta", "signature": "k"}
        ),
        message("content_block_delta", index=1, delta={"type": "text_delta", "text": "So."}),
    )
    assert answer.token_times == [1.0, 3.0]
    assert answer.pieces() is None, "the tokens around a thought are not in the stream"
    (sent,) = messages.body(ChatRequest("m", [answer.message()], 1))["messages"]
    assert sent["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "k"},
        {"type": "text", "text": "So."},
    ]
    (same,) = messages.rendered([answer.message()])
    assert same == {"role": "assistant", "reasoning": "Hm", "content": "So."}


def test_thoughts_of_responses_go_back_as_an_item():
    answer = taken(
        ResponsesAnswer(),
        {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "Hm"},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "So."},
    )
    kinds = [
        each["type"] for each in responses.body(ChatRequest("m", [answer.message()], 1))["input"]
    ]
    assert kinds == ["reasoning", "message"]


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        ([{"input_tokens": 9, "output_tokens": 2}], Usage(9, 2, None)),
        ([{"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": None}], Usage(9, 2, None)),
        ([{"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 0}], Usage(9, 2, 0)),
        # Anthropic's own: the end has the answer alone.
        (
            [
                {"input_tokens": 1, "cache_read_input_tokens": 8, "output_tokens": 1},
                {"output_tokens": 2},
            ],
            Usage(9, 2, 8),
        ),
        # A usage that counts the input again says all that it knows.
        (
            [
                {"input_tokens": 1, "cache_read_input_tokens": 8, "output_tokens": 1},
                {"input_tokens": 9, "output_tokens": 2},
            ],
            Usage(9, 2, None),
        ),
        # vLLM: the start has the whole prompt, the end its parts.
        (
            [
                {"input_tokens": 9, "output_tokens": 0},
                {
                    "input_tokens": 1,
                    "cache_read_input_tokens": 6,
                    "cache_creation_input_tokens": 2,
                    "output_tokens": 2,
                },
            ],
            Usage(9, 2, 6),
        ),
    ],
)  # fmt: skip
def test_a_cache_field_of_messages_that_is_missing_is_unknown_and_not_zero(usages, expected):
    events = [message("message_delta", delta={"stop_reason": "end_turn"}, usage=u) for u in usages]
    assert taken(MessagesAnswer(), *events).usage == expected


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": -1, "output_tokens": 2},
        {"input_tokens": "9", "output_tokens": 2},
        {"input_tokens": 0, "output_tokens": 2},
        {"output_tokens": 2},
        [],
    ],
)
def test_an_impossible_usage_is_no_usage(usage):
    event = message("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    answer = taken(MessagesAnswer(), event, message("message_stop"))
    assert (answer.usage, answer.end()) == (None, None)
    assert answer.usage_fault
    answer = taken(ResponsesAnswer(), {"type": "response.completed", "response": {"usage": usage}})
    assert answer.usage is None
    assert answer.usage_fault


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
    ],
)
def test_the_ends_of_messages_have_the_words_of_chat_completions(reason, finish):
    event = message("message_delta", delta={"stop_reason": reason})
    assert taken(MessagesAnswer(), event).finish_reason == finish


def test_an_answer_without_a_reason_was_aborted():
    event = message("message_delta", delta={"stop_reason": None})
    answer = taken(MessagesAnswer(), event, message("message_stop"))
    assert answer.end().reason is FailureReason.ABORTED


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (MessagesAnswer(), {"type": "error", "error": {"type": "x", "message": "it died"}}),
        (ResponsesAnswer(), {"type": "error", "code": "x", "message": "it died"}),
        (
            ResponsesAnswer(),
            {"type": "response.failed", "response": {"error": {"message": "it died"}}},
        ),
    ],
)
def test_an_error_within_a_stream_is_a_stream_error(answer, event):
    failure = taken(answer, event).end()
    assert (failure.reason, failure.detail) == (FailureReason.STREAM_ERROR, "it died")


@pytest.mark.parametrize("answer", [MessagesAnswer(), ResponsesAnswer()])
def test_a_stream_without_its_last_event_was_cut_also_after_done(answer):
    answer.add(b"[DONE]", 1.0)
    assert answer.end().reason is FailureReason.STREAM_CUT
    assert answer.END in answer.end().detail


@pytest.mark.parametrize("answer", [MessagesAnswer(), ResponsesAnswer()])
@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "content_block_delta", "index": 0},
        {"type": "message_start"},
        {"type": "response.completed"},
        {"type": "response.output_item.added", "output_index": 0, "item": None},
    ],
)
def test_an_event_of_another_form_is_a_known_failure_or_ignored(answer, event):
    taken(answer, event)
    assert answer.failure is None or answer.failure.reason is FailureReason.PROTOCOL


def test_a_prompt_that_is_too_long_is_known_on_messages_too():
    error = {
        "type": "BadRequestError",
        "message": "This model's maximum context length is 8192 tokens. However, your prompt "
        "contains at least 8193 input tokens",
    }
    refusal = read_refusal(400, json.dumps({"type": "error", "error": error}).encode())
    assert messages.SURFACE.failure_of(refusal).reason is FailureReason.PROMPT_TOO_LONG
    assert refusal.context_length == 8192


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_the_path_is_told_from_one_without_the_model(status):
    refusal = read_refusal(status, b'{"detail": "Not Found"}')
    failure = responses.SURFACE.failure_of(refusal)
    assert failure.reason is FailureReason.API_NOT_SERVED
    assert "/v1/responses" in failure.detail
    chat = SURFACES["chat_completions"].failure_of(refusal)
    assert chat.reason is not FailureReason.API_NOT_SERVED
    unknown = {"type": "error", "error": {"type": "NotFoundError", "message": "The model `x` …"}}
    refusal = read_refusal(404, json.dumps(unknown).encode())
    assert messages.SURFACE.failure_of(refusal).reason is FailureReason.MODEL_NOT_FOUND
