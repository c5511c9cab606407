"""/v1/messages: the events of a stream, a whole message, the count of tokens, and refusals."""

from __future__ import annotations

import pytest
from conversation import TOOLS
from surface_client import named_events, of_type, prompt_of
from wire_client import fresh_salt

PATH = "/v1/messages"
SYSTEM = "You are an assistant. " + "word " * 60
AS_TOOLS = [
    {
        "name": tool["function"]["name"],
        "description": tool["function"]["description"],
        "input_schema": tool["function"]["parameters"],
    }
    for tool in TOOLS
]
BILL = "x-anthropic-billing-header: cch=1;"


def body(engine, **changed):
    base = {"model": engine.model, "max_tokens": 6, "temperature": 0, "system": SYSTEM}
    return base | {"messages": [{"role": "user", "content": "hello"}]} | changed


async def counted(engine, **changed):
    asked = body(engine, **changed)
    asked.pop("max_tokens")
    status, answer = await engine.post(f"{PATH}/count_tokens", asked)
    assert status == 200, answer
    assert answer["context_management"] == {"original_input_tokens": answer["input_tokens"]}
    return answer["input_tokens"]


async def test_a_stream_has_one_block_of_text_between_start_and_stop(engine):
    events = await named_events(engine, PATH, body(engine, cache_salt=fresh_salt()))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[1]["content_block"] == {"type": "text", "text": ""}
    assert {event["index"] for event in events[1:-2]} == {0}
    deltas = [event["delta"] for event in events[2:-3]]
    assert all(set(each) == {"type", "text"} and each["text"] for each in deltas)
    message = events[0]["message"]
    assert message["id"].startswith("chatcmpl-")
    assert (message["role"], message["content"], message["stop_reason"]) == ("assistant", [], None)
    assert events[-1] == {"type": "message_stop"}


async def test_the_start_counts_the_whole_prompt_and_the_end_its_parts(engine):
    salt = fresh_salt()
    for again in (False, True):
        events = await named_events(engine, PATH, body(engine, cache_salt=salt))
        first, last = events[0]["message"]["usage"], events[-2]["usage"]
        assert first == {"input_tokens": await counted(engine), "output_tokens": 0}
        assert prompt_of(last) == first["input_tokens"]
        assert (last["cache_read_input_tokens"] > 0) == again
        assert (last["cache_creation_input_tokens"] > 0) != again
        texts = [event["delta"]["text"] for event in of_type(events, "content_block_delta")]
        assert len(texts) <= last["output_tokens"] <= 6


@pytest.mark.engines("plain32")
async def test_without_the_details_flag_the_cache_fields_are_missing(engine):
    expected = {"input_tokens", "output_tokens"}
    for _ in range(2):
        events = await named_events(engine, PATH, body(engine, cache_salt="s"))
        assert set(events[-2]["usage"]) == expected
        _, whole = await engine.post(PATH, body(engine, cache_salt="s"))
        assert set(whole["usage"]) == expected


async def test_a_whole_message_has_the_same_text_and_leaves_nulls_out(engine):
    events = await named_events(engine, PATH, body(engine))
    text = "".join(event["delta"]["text"] for event in of_type(events, "content_block_delta"))
    status, whole = await engine.post(PATH, body(engine))
    assert status == 200
    assert whole["content"] == [{"type": "text", "text": text}]
    assert (whole["type"], whole["role"], whole["model"]) == ("message", "assistant", engine.model)
    assert whole["stop_reason"] == events[-2]["delta"]["stop_reason"]
    assert "stop_sequence" not in whole
    assert prompt_of(whole["usage"]) == await counted(engine)


async def test_an_answer_that_is_cut_says_max_tokens(engine):
    events = await named_events(engine, PATH, body(engine, max_tokens=1))
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 1


async def test_a_call_that_is_forced_is_a_block_whose_input_comes_in_parts(engine):
    choice = {"type": "tool", "name": "get_weather"}
    asked = body(engine, tools=AS_TOOLS, tool_choice=choice, max_tokens=40)
    events = await named_events(engine, PATH, asked)
    (start,) = of_type(events, "content_block_start")
    block = start["content_block"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "get_weather", {})
    assert block["id"].startswith("chatcmpl-tool-")
    deltas = [event["delta"] for event in of_type(events, "content_block_delta")]
    assert {each["type"] for each in deltas} == {"input_json_delta"}
    assert "".join(each["partial_json"] for each in deltas)


async def test_tools_count_as_part_of_the_prompt(engine):
    with_tools = await counted(engine, tools=AS_TOOLS)
    assert with_tools > await counted(engine)
    status, whole = await engine.post(
        PATH, body(engine, tools=AS_TOOLS, tool_choice={"type": "none"})
    )
    assert status == 200
    assert prompt_of(whole["usage"]) == with_tools


async def test_the_line_for_the_bill_is_dropped_and_blocks_are_joined(engine):
    plain = await counted(engine, system="Be brief.")
    blocks = [{"type": "text", "text": text} for text in (BILL, "Be ", "brief.")]
    assert await counted(engine, system=blocks) == plain
    assert await counted(engine, system=f"{BILL}\nBe brief.") == plain
    assert await counted(engine, system=f"Be brief.\n{BILL}") > plain


def of_framework(message, param):
    error = {"message": f"1 validation error:\n  {message}", "type": "Bad Request"}
    return 400, {"error": error | {"param": param, "code": 400}}


def of_anthropic(message, kind="BadRequestError", status=400):
    return status, {"type": "error", "error": {"type": kind, "message": message}}


REFUSALS = {
    "empty_salt": (
        {"cache_salt": ""},
        of_framework(
            "{'type': 'string_too_short', 'loc': 'body.cache_salt', 'msg': 'String should have at"
            " least 1 character', 'input': '', 'ctx': {'min_length': 1}}",
            "body.cache_salt",
        ),
    ),
    "number_as_salt": (
        {"cache_salt": 7},
        of_framework(
            "{'type': 'string_type', 'loc': 'body.cache_salt', 'msg': 'Input should be a valid"
            " string', 'input': '7'}",
            "body.cache_salt",
        ),
    ),
    "max_tokens_zero": (
        {"max_tokens": 0},
        of_framework(
            "{'type': 'value_error', 'loc': 'body.max_tokens', 'msg': 'Value error, max_tokens must"
            " be positive', 'input': '0', 'ctx': {'error': ValueError('max_tokens must be"
            " positive')}}",
            "body.max_tokens",
        ),
    ),
    "max_tokens_huge": (
        {"max_tokens": 9000},
        of_anthropic(
            "max_completion_tokens=9000 cannot be greater than max_model_len=8192. Please request"
            " fewer output tokens. (parameter=max_completion_tokens, value=9000)"
        ),
    ),
    "temperature": (
        {"temperature": -1},
        of_anthropic(
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)"
        ),
    ),
    "model": (
        {"model": "nope"},
        of_anthropic(
            "The model `nope` does not exist. Valid aliases: tiny.", "NotFoundError", status=404
        ),
    ),
    "unknown_tool": (
        {"tools": AS_TOOLS, "tool_choice": {"type": "tool", "name": "nope"}},
        of_anthropic("The tool with name 'nope' is not found in the tools list."),
    ),
    "too_long": (
        {"system": "word " * 9000},
        of_anthropic(
            "This model's maximum context length is 8192 tokens. However, your prompt contains at"
            " least 8193 input tokens, which exceeds this limit even without any output tokens."
            " Please reduce the length of the input prompt. (parameter=input_tokens, value=8193)"
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_has_the_form_of_its_place(engine, name):
    changed, expected = REFUSALS[name]
    assert await engine.post(PATH, body(engine, **changed)) == expected


@pytest.mark.parametrize("missing", ["messages", "max_tokens"])
async def test_a_field_that_is_missing_is_named(engine, missing):
    asked = body(engine)
    del asked[missing]
    status, answer = await engine.post(PATH, asked)
    assert (status, answer["error"]["param"]) == (400, f"body.{missing}")


async def test_a_field_that_is_unknown_is_ignored(engine):
    status, _ = await engine.post(PATH, body(engine, return_token_ids=True, whatever=1))
    assert status == 200
