"""A chat over each API: the same prompt, in the same cache, with the same counts."""

from __future__ import annotations

import pytest
from conversation import TOOLS, opening
from surface_client import prompt_of
from wire_client import fresh_salt, until

from exporter.engine.wire.request import ChatRequest
from exporter.engine.wire.surfaces.named import SURFACES

CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"unit": "celsius"}'},
}
CUT = {"id": "call_2", "type": "function", "function": {"name": "run_shell", "arguments": '{"c'}}
HISTORIES = {
    "opening": opening(60),
    "without_system": opening(40)[1:],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": t} for t in ("One.", "Two.")]},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("three", "four")]},
    ],
    "call_with_text": [
        *opening(20),
        {"role": "assistant", "content": "I look.", "reasoning": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"},
        {"role": "user", "content": "and now?"},
    ],
    "call_alone": [
        *opening(20),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"},
    ],
    "answer_without_text": [
        *opening(20),
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "and now?"},
    ],
    "second_system": [
        *opening(20),
        {"role": "assistant", "content": "Yes."},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "and now?"},
    ],
}


async def counted(engine, name, request):
    """Prompt and cached tokens of a request that is not streamed."""
    surface = SURFACES[name]
    body = surface.body(request) | {"stream": False}
    body.pop("stream_options", None)
    status, answer = await engine.post(surface.path, body)
    assert status == 200, answer
    usage = answer["usage"]
    if name == "messages":
        return prompt_of(usage), usage["cache_read_input_tokens"]
    if name == "responses":
        return usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
async def test_the_rendered_messages_have_as_many_tokens_as_the_prompt(engine, name, history):
    request = ChatRequest(engine.model, history, 2, tools=TOOLS)
    prompt, _ = await counted(engine, name, request)
    rendered = list(SURFACES[name].rendered(history))
    assert (await engine.tokenize(rendered, tools=TOOLS))["count"] == prompt


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
async def test_the_same_history_is_the_same_prompt_on_every_api(engine, history):
    block = int((await engine.cache_config())["block_size"])
    request = ChatRequest(engine.model, history, 2, cache_salt=fresh_salt(), tools=TOOLS)
    found = [await counted(engine, name, request) for name in SURFACES]
    prompts, cached = zip(*found, strict=True)
    assert len(set(prompts)) == 1
    whole = (prompts[0] - 1) // block * block
    assert cached == (0, whole, whole)


@pytest.mark.parametrize("name", ["messages", "responses"])
async def test_another_salt_sees_nothing(engine, name):
    first = fresh_salt()
    requests = [
        ChatRequest(engine.model, opening(80), 2, cache_salt=salt)
        for salt in (first, first, fresh_salt())
    ]
    cached = [(await counted(engine, name, request))[1] for request in requests]
    assert [each > 0 for each in cached] == [False, True, False]


@pytest.mark.parametrize("name", ["messages", "responses"])
async def test_the_counters_move_by_what_the_answers_said(engine, name):
    names = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")
    before = [await engine.metric(each) for each in names]
    request = ChatRequest(engine.model, opening(90), 2, cache_salt=fresh_salt())
    found = [await counted(engine, name, request) for _ in range(3)]
    expected = [sum(numbers) for numbers in zip(*found, strict=True)]

    async def moved():
        after = [await engine.metric(each) for each in names]
        return [new - old for new, old in zip(after, before, strict=True)] == expected

    await until(moved)


async def test_a_call_that_broke_off_is_sent_without_arguments(engine):
    history = [
        *opening(20),
        {"role": "assistant", "content": "", "tool_calls": [CUT]},
        {"role": "user", "content": "and now?"},
    ]
    request = ChatRequest(engine.model, history, 2)
    prompt, _ = await counted(engine, "messages", request)
    rendered = list(SURFACES["messages"].rendered(history))
    assert (await engine.tokenize(rendered))["count"] == prompt
