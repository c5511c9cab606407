"""How requests are refused: status and body, word for word."""

from __future__ import annotations

import json

import pytest

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "x"}]


def error(message, kind="BadRequestError", param=None, code=400):
    return code, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad(message, param, value=...):
    tail = f"parameter={param}" if value is ... else f"parameter={param}, value={value}"
    return error(f"{message} ({tail})", param=param)


def invalid(param, detail):
    return error(f"1 validation error:\n  {detail}", "Bad Request", param)


def too_short(value):
    return bad(f"max_tokens must be at least 1, got {value}.", "max_tokens", value)


SALT = bad("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")
CASES = {
    "max_tokens_zero": ({"messages": USER, "max_tokens": 0}, too_short(0)),
    "max_tokens_negative": ({"messages": USER, "max_tokens": -1}, too_short(-1)),
    "max_completion_tokens_zero": ({"messages": USER, "max_completion_tokens": 0}, too_short(0)),
    "max_tokens_text": (
        {"messages": USER, "max_tokens": "x"},
        invalid(
            "body.max_tokens",
            "{'type': 'int_parsing', 'loc': 'body.max_tokens', 'msg': 'Input should be a valid"
            " integer, unable to parse string as an integer', 'input': 'x'}",
        ),
    ),
    "temperature": (
        {"messages": USER, "temperature": -1},
        bad("temperature must be non-negative, got -1.0.", "temperature", -1.0),
    ),
    "no_messages": (
        {},
        invalid(
            "body.messages",
            "{'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required',"
            " 'input': '<dict of 1 items>'}",
        ),
    ),
    "empty_messages": (
        {"messages": []},
        error("Cannot apply chat template to an empty conversation. Provide at least one message."),
    ),
    "messages_text": (
        {"messages": "x"},
        invalid(
            "body.messages",
            "{'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a valid list',"
            " 'input': 'x'}",
        ),
    ),
    "empty_salt": ({"messages": USER, "cache_salt": ""}, SALT),
    "number_as_salt": ({"messages": USER, "cache_salt": 7}, SALT),
    "stream_options_alone": (
        {"messages": USER, "stream_options": {"include_usage": True}},
        bad("Stream options can only be defined when `stream=True`.", "stream_options"),
    ),
    "choice_without_tools": (
        {"messages": USER, "tool_choice": "auto"},
        bad("When using `tool_choice`, `tools` must be set.", "tool_choice"),
    ),
    "no_tool_in_tools": (
        {"messages": USER, "tools": []},
        bad(
            "`tools` must not be an empty array. Either provide at least one tool or omit the"
            " field entirely.",
            "tools",
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_request_with_a_mistake_is_refused_in_these_words(engine, case):
    body, expected = CASES[case]
    assert await engine.post(CHAT, {"model": engine.model} | body) == expected


async def test_an_unknown_model_is_not_found(engine):
    message = f"The model `nope` does not exist. Valid aliases: {engine.model}."
    expected = error(message, "NotFoundError", "model", 404)
    assert await engine.post(CHAT, {"model": "nope", "messages": USER}) == expected
    assert await engine.post("/tokenize", {"model": "nope", "prompt": "x"}) == expected


@pytest.mark.parametrize("name", [None, ""])
async def test_no_model_at_all_means_the_one_that_is_served(engine, name):
    body = {"model": name, "messages": USER, "max_tokens": 1}
    status, answer = await engine.post(CHAT, body)
    assert (status, answer["model"]) == (200, engine.model)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_beyond_the_context_is_refused_before_any_stream(engine, stream):
    length = (await engine.tokenize(USER))["max_model_len"]
    body = {"model": engine.model, "messages": await engine.messages_of(length + 5)}
    assert await engine.post(CHAT, body | {"stream": stream}) == bad(
        f"This model's maximum context length is {length} tokens. However, your prompt contains"
        f" at least {length + 1} input tokens, which exceeds this limit even without any output"
        " tokens. Please reduce the length of the input prompt.",
        "input_tokens",
        length + 1,
    )


@pytest.mark.parametrize("rank", ["1", "-1", " 7"])
async def test_a_data_parallel_rank_that_the_engine_lacks_is_refused(engine, rank):
    message = f"data_parallel_rank {int(rank)} is out of range [0, 1)."
    body = {"model": engine.model, "messages": USER, "max_tokens": 1}
    assert await engine.post(CHAT, body, {"X-data-parallel-rank": rank}) == error(message)


@pytest.mark.parametrize("rank", ["0", "", "x", "0.5"])
async def test_its_own_rank_and_what_is_no_number_are_accepted(engine, rank):
    body = {"model": engine.model, "messages": USER, "max_tokens": 1}
    status, _ = await engine.post(CHAT, body, {"X-Data-Parallel-Rank": rank})
    assert status == 200


async def test_a_prompt_that_fills_the_context_leaves_no_room_for_an_answer(engine):
    length = (await engine.tokenize(USER))["max_model_len"]
    body = {"model": engine.model, "messages": await engine.messages_of(length)}
    assert await engine.post(CHAT, body) == too_short(0)


async def test_more_tokens_than_the_context_has_are_refused(engine):
    length = (await engine.tokenize(USER))["max_model_len"]
    asked = length + 1
    body = {"model": engine.model, "messages": USER, "max_tokens": asked}
    assert await engine.post(CHAT, body) == bad(
        f"max_tokens={asked} cannot be greater than max_model_len={length}."
        " Please request fewer output tokens.",
        "max_tokens",
        asked,
    )


async def test_broken_json_is_refused_with_its_place(engine):
    raw = json.dumps({"model": "tiny", "messages": []})[:-2].encode()
    place = len(raw)
    detail = (
        f"{{'type': 'json_invalid', 'loc': 'body.{place}', 'msg': 'JSON decode error',"
        " 'input': '<dict of 0 items>', 'ctx': {'error': 'Expecting value'}}"
    )
    expected = invalid(f"body.{place}", detail)
    assert await engine.post_raw(CHAT, raw, "application/json") == expected


async def test_another_content_type_is_refused(engine):
    answer = await engine.post_raw(CHAT, b"hello", "text/plain")
    assert answer == invalid(None, "Unsupported Media Type: Only 'application/json' is allowed")


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [(CHAT, 405, "Method Not Allowed"), ("/nowhere", 404, "Not Found"), ("/", 404, "Not Found")],
)
async def test_wrong_methods_and_paths_have_a_detail_and_no_error_object(
    engine, path, status, detail
):
    got, text, headers = await engine.get(path)
    assert (got, json.loads(text)) == (status, {"detail": detail})
    assert headers["Content-Type"] == "application/json"


async def test_an_unknown_field_is_ignored(engine):
    body = {"model": engine.model, "messages": USER, "max_tokens": 1, "foo_bar": 1}
    assert (await engine.post(CHAT, body))[0] == 200
