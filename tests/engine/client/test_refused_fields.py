"""A request that a server refuses for one field is sent again without it."""

import pytest
from aiohttp import web
from chat_server import DONE, PATIENT, REQUEST, USAGE, Handler, chunk, serving, streaming

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest
from exporter.model.failure import FailureReason


def refusing(*fields: str, status: int = 400) -> tuple[Handler, list[dict]]:
    """A strict server, and the requests that it got."""
    seen: list[dict] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        seen.append(body := await request.json())
        for name in fields:
            if name in body:
                quote = f"Parameter '{name}' is not supported. Got: {body['messages']}"
                return web.json_response({"error": {"message": quote}}, status=status)
        return await streaming(chunk("one", "stop"), USAGE, DONE)(request)

    return chat, seen


@pytest.mark.parametrize("status", [400, 422])
async def test_a_request_is_sent_again_without_the_fields_that_were_refused(status):
    chat, seen = refusing("cache_salt", "stream_options", "return_token_ids", status=status)
    async with serving(chat) as url, EngineClient(url) as client:
        chats = [await client.chat(REQUEST, PATIENT) for _ in range(2)]
        assert client.capabilities.refuses_salts
        assert [got.failure for got in chats] == [None, None]
        assert len(seen) == 5, "each field is refused once"
        assert not {"cache_salt", "stream_options", "return_token_ids"} & seen[-1].keys()
        for process in (None, "first", None, "first"):
            client.note_process(process)
        assert client.capabilities.refuses_salts, "none of these is known to be another process"
        client.note_process("second")
        await client.chat(REQUEST, PATIENT)
    assert "cache_salt" in seen[5], "another process may know it"


async def test_what_a_refusal_quotes_of_a_prompt_is_masked():
    chat, seen = refusing("temperature")
    prompt = "a conversation that nobody else may read"
    request = ChatRequest("m", [{"role": "user", "content": prompt}], 4, cache_salt="s" * 32)
    async with serving(chat) as url, EngineClient(url) as client:
        got = await client.chat(request, PATIENT)
    assert got.failure.reason is FailureReason.BAD_REQUEST
    assert "Parameter 'temperature' is not supported" in got.failure.detail
    assert prompt not in got.failure.detail
    assert len(seen) == 1
