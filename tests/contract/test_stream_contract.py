"""What a streamed answer looks like: all that the measuring client reads from it."""

from __future__ import annotations

import pytest
from conversation import TOOLS, opening
from wire_client import fresh_salt

ASKED = opening(40)


async def test_a_stream_is_server_sent_events_with_done_at_the_end(engine):
    answer = await engine.stream(ASKED)
    assert answer.content_type.split(";")[0] == "text/event-stream"
    assert answer.done
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    for chunk in answer.chunks:
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["model"] == engine.model
        assert isinstance(chunk["created"], int)


async def test_the_first_chunk_has_the_role_and_no_text(engine):
    first = (await engine.stream(ASKED)).chunks[0]
    (choice,) = first["choices"]
    assert choice["delta"] == {"role": "assistant", "content": ""}
    assert choice["finish_reason"] is None
    assert choice["index"] == 0


async def test_prompt_ids_stand_on_the_first_chunk_and_answer_ids_on_the_others(engine):
    answer = await engine.stream(ASKED)
    assert all(type(number) is int for number in answer.chunks[0]["prompt_token_ids"])
    assert len(answer.chunks[0]["prompt_token_ids"]) == answer.usage["prompt_tokens"]
    assert "token_ids" not in answer.chunks[0]["choices"][0]
    assert not any("prompt_token_ids" in chunk for chunk in answer.chunks[1:])
    assert len(answer.token_ids) == answer.usage["completion_tokens"] == 8


async def test_ids_are_null_where_they_were_not_asked_for(engine):
    answer = await engine.stream(ASKED, return_token_ids=False)
    assert answer.chunks[0]["prompt_token_ids"] is None
    assert all(chunk["choices"][0]["token_ids"] is None for chunk in answer.steps)


async def test_every_step_carries_text_and_the_last_one_says_why_it_ended(engine):
    answer = await engine.stream(ASKED)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in answer.steps]
    assert set(reasons[:-1]) <= {None}
    assert reasons[-1] == "length"
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in answer.steps)
    assert answer.text


async def test_usage_comes_in_a_chunk_of_its_own_without_choices(engine):
    answer = await engine.stream(ASKED)
    assert answer.chunks[-1]["choices"] == []
    assert not any("usage" in chunk for chunk in answer.chunks[:-1])
    usage = answer.usage
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert type(usage["prompt_tokens_details"]["cached_tokens"]) is int


@pytest.mark.parametrize("options", [None, {"include_usage": False}])
async def test_without_being_asked_for_there_is_no_usage(engine, options):
    answer = await engine.stream(ASKED, stream_options=options)
    assert answer.done
    assert not any("usage" in chunk for chunk in answer.chunks)
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_continuous_usage_counts_up_and_has_details_only_at_the_end(engine):
    options = {"include_usage": True, "continuous_usage_stats": True}
    answer = await engine.stream(ASKED, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in answer.chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 8)
    assert not any("prompt_tokens_details" in chunk["usage"] for chunk in answer.chunks[:-1])
    assert "prompt_tokens_details" in answer.usage


@pytest.mark.engines("plain32")
async def test_without_the_flag_a_stream_has_no_details_at_all(engine):
    answer = await engine.stream(ASKED)
    assert "prompt_tokens_details" not in answer.usage
    assert answer.usage["prompt_tokens"] > 0


@pytest.mark.engines("plain32")
async def test_without_the_flag_a_whole_answer_has_null_details(engine):
    answer = await engine.chat(ASKED)
    assert answer["usage"]["prompt_tokens_details"] is None


async def test_a_whole_answer_says_the_same_as_its_stream(engine):
    salt = fresh_salt()
    streamed = await engine.stream(ASKED, cache_salt=salt)
    whole = await engine.chat(ASKED, cache_salt=salt)
    (choice,) = whole["choices"]
    assert whole["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == streamed.text
    assert choice["token_ids"] == streamed.token_ids
    assert choice["finish_reason"] == "length"
    assert whole["prompt_token_ids"] == streamed.chunks[0]["prompt_token_ids"]
    assert whole["usage"]["prompt_tokens"] == streamed.usage["prompt_tokens"]
    assert "created_cache_tokens" in whole["usage"]["prompt_tokens_details"]


async def test_a_greedy_answer_is_the_same_each_time(engine):
    texts = {(await engine.stream(ASKED, max_tokens=12)).text for _ in range(2)}
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_ends_at_the_asked_length(engine, name):
    answer = await engine.stream(ASKED, **({"max_tokens": None} | {name: 3}))
    assert answer.usage["completion_tokens"] == 3
    assert answer.steps[-1]["choices"][0]["finish_reason"] == "length"


async def test_the_newer_name_of_the_length_wins(engine):
    answer = await engine.stream(ASKED, max_tokens=9, max_completion_tokens=2)
    assert answer.usage["completion_tokens"] == 2


async def test_a_stop_string_ends_the_answer_before_it(engine):
    free = await engine.stream(ASKED, max_tokens=12)
    # A piece from the middle of the greedy answer, so that it is sure to come.
    end = free.text[len(free.text) // 2 :][:4]
    cut = await engine.stream(ASKED, max_tokens=12, stop=[end])
    last = cut.steps[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", end)
    assert cut.text == free.text[: free.text.index(end)]
    assert cut.usage["completion_tokens"] == len(cut.token_ids) < 12


async def test_an_answer_never_outgrows_the_context(engine):
    length = (await engine.tokenize(ASKED))["max_model_len"]
    messages = await engine.messages_of(length - 3)
    answer = await engine.stream(messages, max_tokens=100)
    assert answer.usage["total_tokens"] == length
    assert answer.steps[-1]["choices"][0]["finish_reason"] == "length"


async def test_tools_that_must_not_be_called_still_stand_in_the_prompt(engine):
    without = await engine.stream(ASKED)
    with_tools = await engine.stream(ASKED, tools=TOOLS, tool_choice="none")
    assert with_tools.usage["prompt_tokens"] > without.usage["prompt_tokens"]
    assert with_tools.text
    assert not any("tool_calls" in c["choices"][0]["delta"] for c in with_tools.steps)


@pytest.mark.engines("details128")
async def test_tools_with_auto_need_a_parser_and_none_does_not(engine):
    refused, answer = await engine.post(
        "/v1/chat/completions", engine.body(ASKED, tools=TOOLS, tool_choice="auto")
    )
    assert refused == 400
    assert answer["error"]["type"] == "BadRequestError"
    assert (await engine.stream(ASKED, tools=TOOLS, tool_choice="none")).done


async def test_a_required_tool_call_is_streamed_with_its_name_first(engine):
    answer = await engine.stream(
        ASKED, tools=TOOLS[:1], tool_choice="required", max_tokens=60, ignore_eos=False
    )
    deltas = [chunk["choices"][0]["delta"] for chunk in answer.steps]
    calls = [delta["tool_calls"][0] for delta in deltas if delta.get("tool_calls")]
    assert set(calls[0]) == {"id", "type", "index", "function"}
    assert calls[0]["function"] == {"name": "get_weather"}
    assert all(set(call) == {"index", "function"} for call in calls[1:])
    assert all(set(call["function"]) == {"arguments"} for call in calls[1:])
    assert len(answer.token_ids) == answer.usage["completion_tokens"]


async def test_logprobs_name_the_answers_tokens_by_their_ids_where_that_is_asked_for(engine):
    answer = await engine.stream(ASKED, logprobs=True, return_tokens_as_token_ids=True)
    names = [
        entry["token"]
        for chunk in answer.steps
        for entry in chunk["choices"][0]["logprobs"]["content"]
    ]
    assert names == [f"token_id:{number}" for number in answer.token_ids]
    assert len(names) == answer.usage["completion_tokens"]
    assert answer.chunks[0]["choices"][0]["logprobs"] is None


async def test_logprobs_do_not_keep_a_prompt_from_the_cache(engine):
    salt = fresh_salt()
    first = await engine.stream(ASKED, cache_salt=salt)
    again = await engine.stream(ASKED, cache_salt=salt, logprobs=True)
    assert (first.cached, again.cached > 0) == (0, True)


async def test_the_id_of_an_answer_is_made_of_the_request_id(engine):
    headers = {"X-Request-Id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    body = engine.body(ASKED, max_tokens=1)
    _, answer = await engine.post("/v1/chat/completions", body, headers)
    assert answer["id"] == f"chatcmpl-{headers['X-Request-Id']}"


async def test_tokenize_renders_a_prompt_as_the_chat_does_with_variables_of_the_template(engine):
    variables = {"chat_template_kwargs": {"enable_thinking": False}}
    answer = await engine.chat(ASKED, max_tokens=1, **variables)
    rendered = await engine.tokenize(ASKED, **variables)
    assert rendered["count"] == answer["usage"]["prompt_tokens"]
    assert rendered["tokens"] == answer["prompt_token_ids"]
