"""The client reads a whole answer with its times, and asks for all that is measured."""

import asyncio

import pytest
import uvloop
from aiohttp import web
from chat_server import DONE, PATIENT, REQUEST, USAGE, chunk, serving, streaming

from exporter.engine.client.engine_client import EngineClient, stamps
from exporter.engine.wire.request import Deadlines
from exporter.model.chat import Usage


async def test_a_whole_answer_is_read_with_its_times_its_usage_and_its_ids():
    chat = streaming(
        chunk("", prompt_token_ids=[1, 2, 3]), chunk("one"), chunk(" two", "stop"), USAGE, DONE
    )
    counts: list[int] = []
    async with serving(chat) as url, EngineClient(url) as client:
        before = stamps.now()
        got = await client.chat(REQUEST, PATIENT, counts.append)
    assert got.failure is None
    assert got.usage == Usage(9, 2, 4)
    assert got.message == {"role": "assistant", "content": "one two"}
    assert got.prompt_token_ids == (1, 2, 3)
    assert got.completion_token_ids is None
    assert counts == [1, 2]
    assert before <= got.sent_at <= got.token_times[0] <= got.token_times[1] <= got.finished_at


async def test_the_request_asks_for_everything_that_is_measured():
    seen: dict[str, object] = {}

    async def chat(request: web.Request) -> web.StreamResponse:
        seen.update(await request.json(), key=request.headers.get("Authorization"))
        return await streaming(DONE)(request)

    async with serving(chat) as url, EngineClient(url + "/", api_key="k3y") as client:
        await client.chat(REQUEST, PATIENT)
    assert seen == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a secret prompt"}],
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "cache_salt": "salt",
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
        "key": "Bearer k3y",
    }


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_first_token_is_stamped_when_it_came_and_not_when_it_was_read(new_loop):
    """The reader's loop is blocked between two chunks: the stamps still tell them apart."""

    async def measure() -> None:
        release = asyncio.Event()

        async def wait(_request: web.Request) -> None:
            await release.wait()

        chat = streaming(chunk("one"), wait, chunk("two", "stop"), DONE)
        async with serving(chat) as url, EngineClient(url) as client:
            task = asyncio.create_task(client.chat(REQUEST, Deadlines()))
            reached = asyncio.Event()
            watcher = EngineClient(url)
            second = asyncio.create_task(
                watcher.chat(REQUEST, Deadlines(), lambda _count: reached.set())
            )
            await reached.wait()  # a token of a later request was parsed: ours was stamped
            opened = stamps.now()
            release.set()
            got, _ = await asyncio.gather(task, second)
            await watcher.close()
        assert got.token_times[0] < opened < got.token_times[1]

    loop = new_loop()
    try:
        loop.run_until_complete(measure())
    finally:
        loop.close()


async def test_an_answer_that_comes_in_one_packet_with_its_headers_is_stamped_too():
    async def chat(request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=chunk("one", "stop") + USAGE + DONE, content_type="text/event-stream"
        )

    async with serving(chat) as url, EngineClient(url) as client:
        got = await client.chat(REQUEST, PATIENT)
    assert got.failure is None
    assert got.sent_at < got.token_times[0] <= got.finished_at


async def test_a_rejected_usage_leaves_the_times_of_the_answer():
    odd = b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'
    async with serving(streaming(chunk("one", "stop"), odd, DONE)) as url:
        async with EngineClient(url) as client:
            got = await client.chat(REQUEST, PATIENT)
    assert got.failure is None
    assert got.usage is None
    assert got.usage_fault == "usage has no prompt_tokens"
    assert got.sent_at <= got.token_times[0]


def test_a_printed_request_has_no_prompt_and_no_salt():
    assert "secret prompt" not in repr(REQUEST)
    assert "salt'" not in repr(REQUEST)
