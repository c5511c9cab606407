"""What a client sends over each API, and that /tokenize gets the chat request that vLLM makes."""

import json

import pytest
from aiohttp import web
from chat_server import PATIENT, REQUEST, serving, streaming

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.model.failure import FailureReason

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
ANSWER = {
    "role": "assistant",
    "content": "",
    "reasoning": "Hm",
    "reasoning_signature": "k",
    "tool_calls": [CALL],
}


@pytest.mark.parametrize("api", ["messages", "responses"])
async def test_tokenize_gets_the_chat_request_that_the_engine_makes(api):
    seen = []

    async def tokenize(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return web.json_response({"count": 2, "tokens": [1, 2], "token_strs": ["a", "b"]})

    async with (
        serving(streaming(), tokenize=tokenize) as url,
        EngineClient(url, surface=SURFACES[api]) as client,
    ):
        history = [*REQUEST.messages, ANSWER]
        assert await client.tokenize("m", history, ()) == (1, 2)
        assert await client.count_tokens("m", history, ()) == 2
        assert await client.tokenize_answer(REQUEST, (), ANSWER) == ((1, 2), ("a", "b"))
    for body in seen:
        sent = body["messages"][-1]
        assert sent.keys() == {"role", "reasoning", "tool_calls"}, "no text is no content"
        assert json.loads(sent["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert (seen[2]["add_generation_prompt"], seen[2]["return_token_strs"]) == (False, True)


def named(**event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


MESSAGE = (
    named(type="message_start", message={"usage": {"input_tokens": 9, "output_tokens": 0}}),
    named(type="ping"),
    named(type="content_block_start", index=0, content_block={"type": "text", "text": ""}),
    named(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "one"}),
    named(
        type="message_delta",
        delta={"stop_reason": "end_turn"},
        usage={"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 2},
    ),
    named(type="message_stop"),
)


async def test_a_message_is_sent_to_its_path_and_read_with_its_times():
    seen = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return await streaming(*MESSAGE)(request)

    async with (
        serving(streaming(), v1__messages=answer) as url,
        EngineClient(url, surface=SURFACES["messages"]) as client,
    ):
        got = await client.chat(REQUEST, PATIENT)
    assert got.failure is None
    assert (got.usage.prompt_tokens, got.usage.cached_tokens) == (9, 4)
    assert len(got.token_times) == 1
    assert got.ttft_seconds > 0
    assert got.text_pieces == ("one",)
    assert seen[0]["cache_salt"] == "salt"


@pytest.mark.parametrize("api", ["messages", "responses"])
async def test_without_the_path_the_failure_names_it(api):
    async with (
        serving(streaming()) as url,
        EngineClient(url, surface=SURFACES[api]) as client,
    ):
        failure = (await client.chat(REQUEST, PATIENT)).failure
    assert failure.reason is FailureReason.API_NOT_SERVED
    assert SURFACES[api].path in failure.detail


async def test_a_response_is_sent_again_without_the_field_that_was_refused():
    seen = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(body := await request.json())
        if "enable_response_messages" in body:
            words = "Unknown parameter: 'enable_response_messages'."
            return web.json_response({"error": {"message": words}}, status=400)
        last = {"status": "completed", "usage": {"input_tokens": 9, "output_tokens": 1}}
        return await streaming(
            named(type="response.output_text.delta", output_index=0, delta="one"),
            named(type="response.completed", response=last),
        )(request)

    async with (
        serving(streaming(), v1__responses=answer) as url,
        EngineClient(url, surface=SURFACES["responses"]) as client,
    ):
        got = await client.chat(REQUEST, PATIENT)
        again = await client.chat(REQUEST, PATIENT)
    assert (got.failure, again.failure) == (None, None)
    assert ["enable_response_messages" in body for body in seen] == [True, False, False]
    assert got.usage.cached_tokens is None
