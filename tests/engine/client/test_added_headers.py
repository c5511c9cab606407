"""The headers and fields that a user adds, as a server receives them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from chat_server import DONE, PATIENT, REQUEST, USAGE, chunk, streaming

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.additions import Additions
from exporter.engine.wire.request import RequestContext
from exporter.engine.wire.surfaces.chat_completions import body
from exporter.errors import EngineUnavailableError
from exporter.model.engine import Rank

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "canaryValueOfAHeader"
TENANT = Additions({"X-Tenant": SECRET, "X-Session": "{session}"}, {"priority": 7})
SESSION = RequestContext("a1b2", turn=2)


@dataclass
class Server:
    """A server that notes what it is asked. `answers` are those of its paths, by path."""

    answers: dict[str, Any] = field(default_factory=dict)
    headers: list[tuple[str, Any]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append((request.path, request.headers))
        self.bodies.append(json.loads(await request.text() or "null"))
        if request.path in self.answers:
            return self.answers[request.path](request)
        if request.path == "/v1/chat/completions":
            return await streaming(chunk("a"), chunk(finish="stop"), USAGE, DONE)(request)
        return web.json_response({"data": [{"id": "tiny"}], "count": 3, "tokens": [1, 2, 3]})

    def sent(self, name: str) -> dict[str, str | None]:
        """By path the header of that name, as it was sent last."""
        return {path: headers.get(name) for path, headers in self.headers}


@contextlib.asynccontextmanager
async def server(**answers: Any) -> AsyncIterator[Server]:
    one = Server(answers)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield one
    finally:
        await runner.cleanup()


async def test_every_request_to_the_target_itself_has_them():
    async with server() as at, EngineClient(at.url, additions=TENANT) as client:
        await client.info()
        await client.metrics()
        await client.healthy()
        await client.tokenize("tiny", REQUEST.messages, ())
        await client.detokenize("tiny", [1])
        await client.rest()
        await client.chat(REQUEST, PATIENT)
    assert set(at.sent("X-Tenant").values()) == {SECRET}
    assert len(at.sent("X-Tenant")) == 9
    assert set(at.sent("X-Session").values()) == {None}, "no request was of a session"


async def test_requests_of_a_session_have_its_id_and_their_turn():
    added = Additions({"X-Session": "{session}:{turn}"}, {"user": "{session}"})
    async with server() as at, EngineClient(at.url, additions=added) as client:
        await client.chat(replace(REQUEST, context=SESSION), PATIENT)
        await client.count_tokens("tiny", REQUEST.messages, (), SESSION)
    assert at.sent("X-Session") == {"/v1/chat/completions": "a1b2:2", "/tokenize": "a1b2:2"}
    assert [body.get("user") for body in at.bodies] == ["a1b2", None]


async def test_they_never_go_to_another_host_or_port():
    async with server() as at, server() as other:
        page = f"{other.url}/metrics"
        async with EngineClient(at.url, metrics_url=page, additions=TENANT) as client:
            await client.metrics()
    assert other.sent("X-Tenant") == {"/metrics": None}


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/v1/chat/completions", "/tokenize"])
async def test_they_never_follow_a_redirect_to_another_host_or_port(path):
    async with server() as other:

        def sent_on(_request):
            raise web.HTTPTemporaryRedirect(f"{other.url}{path}")

        async with server(**{path: sent_on}) as at:
            async with EngineClient(at.url, additions=TENANT) as client:
                with contextlib.suppress(EngineUnavailableError):
                    await client.metrics()
                with contextlib.suppress(EngineUnavailableError):
                    await client.info()
                await client.tokenize("tiny", REQUEST.messages, ())
                await client.chat(REQUEST, PATIENT)
    assert other.headers == []
    assert at.sent("X-Tenant")[path] == SECRET


async def test_a_field_of_the_user_goes_into_chats_and_one_that_renders_also_to_tokenize():
    kwargs = {"chat_template_kwargs": {"enable_thinking": False}}
    added = Additions(body={"priority": 7, **kwargs})
    async with server() as at, EngineClient(at.url, additions=added) as client:
        await client.chat(REQUEST, PATIENT)
        await client.tokenize("tiny", REQUEST.messages, ())
    chat, tokenized = at.bodies
    assert chat == body(REQUEST) | {"priority": 7, **kwargs}
    assert tokenized == {"model": "tiny", "messages": REQUEST.messages, **kwargs}


async def test_each_chat_has_a_request_id_of_its_own():
    async with server() as at, EngineClient(at.url) as client:
        chats = [await client.chat(REQUEST, PATIENT) for _ in range(3)]
    sent = [headers["X-Request-Id"] for _, headers in at.headers]
    assert [chat.request_id for chat in chats] == sent
    assert len(set(sent)) == 3


async def test_a_request_that_is_sent_again_has_a_new_id():
    def refuse_once(request):
        at.answers.clear()
        raise web.HTTPBadRequest(text="cache_salt is not supported")

    async with server() as at, EngineClient(at.url) as client:
        at.answers["/v1/chat/completions"] = refuse_once
        chat = await client.chat(REQUEST, PATIENT)
    first, second = (headers["X-Request-Id"] for _, headers in at.headers)
    assert (chat.failure, chat.request_id) == (None, second)
    assert first != second


async def test_the_users_own_request_id_replaces_ours_and_is_no_result():
    added = Additions({"x-request-id": "mine-{turn}"})
    async with server() as at, EngineClient(at.url, additions=added) as client:
        chat = await client.chat(replace(REQUEST, context=SESSION), PATIENT)
    assert at.headers[0][1].getall("X-Request-Id") == ["mine-2"]
    assert chat.request_id is None


async def test_a_pinned_request_names_its_rank():
    pinned = replace(SESSION, rank=Rank(label=5, index=1))
    async with server() as at, EngineClient(at.url) as client:
        await client.chat(replace(REQUEST, context=pinned), PATIENT)
    assert at.sent("X-data-parallel-rank") == {"/v1/chat/completions": "1"}


@pytest.mark.parametrize("value", [SECRET, f"Bearer {SECRET}", f"{SECRET}-{{session}}", "a b"])
async def test_no_error_has_the_value_of_a_header(value):
    def quoting(request):
        said = f"wrong: X-Tenant={request.headers.get('X-Tenant')}"
        return web.json_response({"error": {"message": said}}, status=400)

    async with server(**{"/v1/chat/completions": quoting, "/v1/models": quoting}) as at:
        async with EngineClient(at.url, additions=Additions({"X-Tenant": value})) as client:
            chat = await client.chat(replace(REQUEST, context=SESSION), PATIENT)
            with pytest.raises(EngineUnavailableError) as caught:
                await client.info()
    assert chat.failure is not None
    for detail in (chat.failure.detail, caught.value.detail):
        assert value.format(session="a1b2") not in detail.replace("HTTP 400: wrong", "")
        assert SECRET not in detail
        assert SESSION.session not in detail


async def test_a_page_that_quotes_a_header_has_it_masked():
    def quoting(request):
        return web.Response(text=f'vllm:x{{of="{request.headers["X-Tenant"]}"}} 1\n')

    async with server(**{"/metrics": quoting}) as at:
        async with EngineClient(at.url, additions=TENANT) as client:
            page = await client.metrics()
    assert page == b'vllm:x{of="***"} 1\n'
