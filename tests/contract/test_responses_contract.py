"""/v1/responses: the events of a stream, a whole response, its usage and ids, and refusals."""

from __future__ import annotations

import pytest
from conversation import TOOLS
from surface_client import named_events, of_type
from wire_client import fresh_salt

PATH = "/v1/responses"
SYSTEM = "You are an assistant. " + "word " * 60
FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]


def body(engine, **changed):
    base = {"model": engine.model, "max_output_tokens": 6, "temperature": 0, "store": False}
    item = {"type": "message", "role": "user", "content": "hello"}
    return base | {"instructions": SYSTEM, "input": [item], "ignore_eos": True} | changed


async def test_a_stream_opens_an_item_with_one_part_and_closes_it(engine):
    events = await named_events(engine, PATH, body(engine, cache_salt=fresh_salt()))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    begun, ended = events[0]["response"], events[-1]["response"]
    assert (begun["status"], begun["output"], begun["usage"]) == ("in_progress", [], None)
    assert set(begun) == set(ended)
    text = "".join(event["delta"] for event in of_type(events, "response.output_text.delta"))
    assert ended["output"][0]["content"][0]["text"] == text
    assert ended["output"] == [events[-2]["item"]]


async def test_an_answer_that_is_cut_is_incomplete_in_a_completed_event(engine):
    last = (await named_events(engine, PATH, body(engine)))[-1]["response"]
    assert last["status"] == "incomplete"
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["usage"]["output_tokens"] == last["max_output_tokens"] == 6


@pytest.mark.engines("details32", "plain32")
async def test_usage_has_the_cached_tokens_whatever_the_flags_are(engine):
    block, salt = int((await engine.cache_config())["block_size"]), fresh_salt()
    for again in (False, True):
        events = await named_events(engine, PATH, body(engine, cache_salt=salt))
        usage = events[-1]["response"]["usage"]
        whole = (usage["input_tokens"] - 1) // block * block
        details = usage["input_tokens_details"]
        assert details["cached_tokens"] == (whole if again else 0)
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert details["cached_tokens_per_turn"] == []


async def test_the_last_event_has_the_ids_of_prompt_and_answer_if_they_are_asked_for(engine):
    plain = (await named_events(engine, PATH, body(engine)))[-1]["response"]
    assert (plain["input_messages"], plain["output_messages"]) == (None, None)
    events = await named_events(engine, PATH, body(engine, enable_response_messages=True))
    assert events[0]["response"]["input_messages"] is None
    last = events[-1]["response"]
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "hello"},
    ]
    (prompt,), (answer,) = last["input_messages"], last["output_messages"]
    assert prompt["tokens"] == (await engine.tokenize(messages))["tokens"]
    assert len(answer["tokens"]) == last["usage"]["output_tokens"]
    assert prompt["type"] == answer["type"] == "raw_message_tokens"
    _, text = await engine.post("/detokenize", {"model": engine.model, "tokens": answer["tokens"]})
    assert text["prompt"] == answer["message"] == last["output"][0]["content"][0]["text"]


async def test_a_whole_response_has_the_same_fields_and_text(engine):
    last = (await named_events(engine, PATH, body(engine)))[-1]["response"]
    status, whole = await engine.post(PATH, body(engine))
    assert status == 200
    assert set(whole) == set(last)
    text = last["output"][0]["content"][0]["text"]
    assert whole["output"][0]["content"][0]["text"] == text
    assert set(whole["usage"]) == set(last["usage"])


async def test_a_call_that_is_forced_is_an_item_whose_arguments_come_in_parts(engine):
    choice = {"type": "function", "name": "get_weather"}
    asked = body(engine, tools=FLAT_TOOLS, tool_choice=choice, max_output_tokens=40)
    events = await named_events(engine, PATH, asked)
    (begun,) = of_type(events, "response.output_item.added")
    assert (begun["item"]["type"], begun["item"]["name"]) == ("function_call", "get_weather")
    assert begun["item"]["call_id"].startswith("chatcmpl-tool-")
    parts = of_type(events, "response.function_call_arguments.delta")
    (end,) = of_type(events, "response.function_call_arguments.done")
    assert "".join(part["delta"] for part in parts) == end["arguments"]


async def test_a_text_alone_is_the_word_of_a_user(engine):
    _, by_text = await engine.post(PATH, body(engine, input="hello"))
    _, by_item = await engine.post(PATH, body(engine))
    assert by_text["usage"]["input_tokens"] == by_item["usage"]["input_tokens"]


def bad(message, param, kind="BadRequestError", status=400):
    error = {"message": message, "type": kind, "param": param, "code": status}
    return status, {"error": error}


def salt_refused():
    return bad(
        "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)",
        "cache_salt",
    )


REFUSALS = {
    "empty_salt": ({"cache_salt": ""}, salt_refused()),
    "number_as_salt": ({"cache_salt": 7}, salt_refused()),
    "limit_zero": (
        {"max_output_tokens": 0},
        bad(
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            "max_tokens",
        ),
    ),
    "limit_huge": (
        {"max_output_tokens": 9000},
        bad(
            "max_output_tokens=9000 cannot be greater than max_model_len=8192. Please request fewer"
            " output tokens. (parameter=max_output_tokens, value=9000)",
            "max_output_tokens",
        ),
    ),
    "model": (
        {"model": "nope"},
        bad(
            "The model `nope` does not exist. Valid aliases: tiny.",
            "model",
            "NotFoundError",
            404,
        ),
    ),
    "unknown_tool": (
        {"tools": FLAT_TOOLS, "tool_choice": {"type": "function", "name": "nope"}},
        bad(
            "Tool choice 'function' not found in 'tools' parameter. (parameter=tool_choice)",
            "tool_choice",
        ),
    ),
    "too_long": (
        {"instructions": "word " * 9000},
        bad(
            "This model's maximum context length is 8192 tokens. However, your prompt contains at"
            " least 8193 input tokens, which exceeds this limit even without any output tokens."
            " Please reduce the length of the input prompt. (parameter=input_tokens, value=8193)",
            "input_tokens",
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_is_that_of_chat_completions_by_the_names_of_this_api(engine, name):
    changed, expected = REFUSALS[name]
    assert await engine.post(PATH, body(engine, **changed)) == expected


async def test_an_input_that_is_missing_is_named(engine):
    status, answer = await engine.post(PATH, {"model": engine.model})
    assert (status, answer["error"]["param"]) == (400, "body.input")
