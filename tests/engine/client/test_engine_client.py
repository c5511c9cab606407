"""The measuring client against a server that does, one by one, what engines and networks do."""

import asyncio
import gzip
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop
from aiohttp import web

from exporter.engine.client.deadline_timer import DeadlineTimer
from exporter.engine.client.engine_client import EngineClient, stamps
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.errors import EngineUnavailableError
from exporter.model.chat import Usage
from exporter.model.engine import EngineInfo
from exporter.model.failure import FailureReason

REQUEST = ChatRequest(
    model="tiny",
    messages=[{"role": "user", "content": "a secret prompt"}],
    max_tokens=4,
    cache_salt="salt",
    tools=[{"type": "function", "function": {"name": "f"}}],
)
PATIENT = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)
NO_FIRST_TOKEN = Deadlines(connect=60, first_token=0.3, between_tokens=60, whole=120)
NO_MORE_TOKENS = Deadlines(connect=60, first_token=60, between_tokens=0.3, whole=120)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def chunk(text: str | None = None, finish: str | None = None, **more: object) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


USAGE = b"data: " + json.dumps(
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
).encode() + b"\n\n"  # fmt: skip
DONE = b"data: [DONE]\n\n"


def streaming(*pieces: bytes | Callable[[web.Request], Awaitable[None]]) -> Handler:
    """A handler that writes bytes and, between them, does what the callables do."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in pieces:
            if callable(piece):
                await piece(request)
            else:
                await response.write(piece)
        return response

    return handle


async def cut(request: web.Request) -> None:
    """End the connection without a word."""
    assert request.transport is not None
    request.transport.abort()


async def hang(_request: web.Request) -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def serving(chat: Handler, **routes: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    for path, handler in routes.items():
        app.router.add_route("*", "/" + path.replace("__", "/"), handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def failure_of(chat: Handler, deadlines: Deadlines = PATIENT) -> FailureReason | None:
    async with serving(chat) as url, EngineClient(url) as client:
        failure = (await client.chat(REQUEST, deadlines)).failure
        return failure.reason if failure else None


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
        admission = asyncio.Event()

        async def wait(_request: web.Request) -> None:
            await admission.wait()

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
            admission.set()
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


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([hang], FailureReason.FIRST_TOKEN_TIMEOUT),
        ([chunk(""), hang], FailureReason.FIRST_TOKEN_TIMEOUT),
        ([chunk("one"), hang], FailureReason.STALLED),
        ([cut], FailureReason.STREAM_CUT),
        ([chunk("one"), cut], FailureReason.STREAM_CUT),
        ([chunk("one")], FailureReason.STREAM_CUT),
        ([chunk("one"), b'data: {"error":{"message":"dead"}}\n\n', DONE], "stream_error"),
        ([chunk("one", "abort"), USAGE, DONE], FailureReason.ABORTED),
        ([b"data: nonsense\n\n"], FailureReason.PROTOCOL),
        ([chunk("one", "stop"), DONE, cut], None),
        ([chunk("one", "stop"), DONE, hang], None),
    ],
)
async def test_each_way_a_stream_can_go_wrong_has_its_own_reason(pieces, reason):
    by_reason = {
        FailureReason.FIRST_TOKEN_TIMEOUT: NO_FIRST_TOKEN,
        FailureReason.STALLED: NO_MORE_TOKENS,
        None: Deadlines(connect=60, first_token=60, between_tokens=3, whole=120),
    }
    assert await failure_of(streaming(*pieces), by_reason.get(reason, PATIENT)) == reason


async def test_a_stream_that_never_ends_is_ended_by_the_deadline_of_the_whole_turn():
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(chunk("x"))
            await asyncio.sleep(0.01)

    deadlines = Deadlines(first_token=20, between_tokens=20, whole=0.5)
    async with serving(drip) as url, EngineClient(url) as client:
        got = await client.chat(REQUEST, deadlines)
    assert got.failure.reason is FailureReason.TURN_TIMEOUT
    assert got.token_times, "what came until then is kept"


async def test_an_answer_that_is_no_stream_is_a_protocol_failure():
    async def chat(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": []})

    assert await failure_of(chat) is FailureReason.PROTOCOL


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, {"error": "Unauthorized"}, FailureReason.UNAUTHORIZED),
        (404, {"error": {"message": "no model", "param": "model"}}, FailureReason.MODEL_NOT_FOUND),
        (400, {"error": {"message": "x", "param": "input_tokens"}}, FailureReason.PROMPT_TOO_LONG),
        (500, {"error": {"message": "boom"}}, FailureReason.SERVER_ERROR),
    ],
)
async def test_a_refused_request_says_why(status, body, reason):
    async def chat(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    assert await failure_of(chat) is reason


TOO_LONG = json.dumps({"error": {"message": "too long", "param": "input_tokens"}}).encode()


def in_pieces(*pieces: bytes | Callable[[web.Request], Awaitable[None]], status: int) -> Handler:
    """An error whose body comes piece by piece."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for piece in pieces:
            if callable(piece):
                await piece(request)
            else:
                await response.write(piece)
                await asyncio.sleep(0)
        return response

    return handle


async def seen_apart(_request: web.Request) -> None:
    """Long enough for the client to have read what came so far: its parser waits 50 ms."""
    await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ([TOO_LONG[:20], seen_apart, TOO_LONG[20:]], 400, FailureReason.PROMPT_TOO_LONG),
        ([TOO_LONG, hang], 400, FailureReason.PROMPT_TOO_LONG),
        ([TOO_LONG, cut], 400, FailureReason.PROMPT_TOO_LONG),
        ([b"x" * 300_000] * 8 + [hang], 500, FailureReason.SERVER_ERROR),
        ([hang], 401, FailureReason.UNAUTHORIZED),
        ([cut], 503, FailureReason.OVERLOADED),
    ],
)
async def test_a_refusal_is_read_whole_or_as_far_as_it_comes(pieces, status, reason):
    refusing = in_pieces(*pieces, status=status)
    deadlines = Deadlines(connect=5, first_token=4, between_tokens=4, whole=20)
    assert await failure_of(refusing, deadlines) is reason
    async with serving(refusing, v1__models=refusing) as url:
        async with EngineClient(url, timeout_seconds=4) as client:
            with pytest.raises(EngineUnavailableError) as caught:
                await client.info()
    assert caught.value.reason == reason


async def test_a_packed_refusal_is_unpacked():
    async def chat(_request: web.Request) -> web.StreamResponse:
        body = gzip.compress(TOO_LONG)
        return web.Response(status=400, body=body, headers={"Content-Encoding": "gzip"})

    assert await failure_of(chat) is FailureReason.PROMPT_TOO_LONG


async def test_nothing_listening_is_connection_refused_and_names_the_place():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with EngineClient(f"http://127.0.0.1:{port}") as client:
        got = await client.chat(REQUEST, PATIENT)
        assert got.failure.reason is FailureReason.CONNECTION_REFUSED
        assert f"127.0.0.1:{port}" in got.failure.detail
        assert got.sent_at is None
        with pytest.raises(EngineUnavailableError) as caught:
            await client.metrics()
    assert caught.value.reason == FailureReason.CONNECTION_REFUSED


async def test_a_host_that_does_not_exist_is_a_failed_connection():
    async with EngineClient("http://no-such-host.invalid") as client:
        got = await client.chat(REQUEST, Deadlines())
    assert got.failure.reason is FailureReason.CONNECT_FAILED


async def test_plain_http_behind_an_https_url_is_a_failed_connection():
    async with serving(streaming(DONE)) as url:
        async with EngineClient(url.replace("http:", "https:")) as client:
            got = await client.chat(REQUEST, PATIENT)
    assert got.failure.reason is FailureReason.CONNECT_FAILED


async def test_a_listener_that_never_accepts_is_a_connect_timeout():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fill = [socket.socket() for _ in range(8)]
    for each in fill:
        each.setblocking(False)
        each.connect_ex(listener.getsockname())  # the queue of an idle listener fills up
    try:
        async with EngineClient(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            got = await client.chat(REQUEST, Deadlines(connect=0.3))
    finally:
        for each in [*fill, listener]:
            each.close()
    assert got.failure.reason is FailureReason.CONNECT_TIMEOUT


async def test_a_kept_alive_connection_that_the_server_closed_is_not_a_failed_turn():
    """The server ends the first connection as the second request arrives on it."""
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 2:
            await cut(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        assert (await client.chat(REQUEST, PATIENT)).failure is None
    assert requests == 3


async def test_a_deadline_on_a_kept_alive_connection_is_waited_for_once():
    """Nor is the prompt sent a second time: the engine may have it in its cache by then."""
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 2:
            await hang(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        got = await client.chat(REQUEST, NO_FIRST_TOKEN)
    assert got.failure.reason is FailureReason.FIRST_TOKEN_TIMEOUT
    assert not got.sent_twice
    assert requests == 2


async def test_an_answer_that_has_begun_is_never_asked_for_again():
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        end = [chunk("one", "stop"), DONE] if requests == 1 else [b": wait\n\n", cut]
        return await streaming(*end)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        got = await client.chat(REQUEST, PATIENT)
    assert got.failure.reason is FailureReason.STREAM_CUT
    assert requests == 2


async def test_a_prompt_that_a_server_may_have_had_twice_is_said_to_be():
    """It reads the second request whole and closes; from then on each has its own connection."""
    peers: list[object] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        peers.append(request.transport.get_extra_info("peername"))
        await request.read()
        if len(peers) == 2:
            await cut(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        chats = [await client.chat(REQUEST, PATIENT) for _ in range(4)]
    assert [got.failure for got in chats] == [None] * 4
    assert [got.sent_twice for got in chats] == [False, True, False, False]
    assert peers[0] == peers[1]
    assert len(set(peers)) == 4


async def test_a_server_that_closes_after_long_thought_has_failed(monkeypatch):
    """No server that merely ends a kept-alive connection takes that long."""
    requests = 0

    async def chat(request: web.Request) -> web.StreamResponse:
        nonlocal requests
        requests += 1
        if requests == 2:
            monkeypatch.setattr(DeadlineTimer, "elapsed", lambda _watch: PATIENT.connect + 1)
            await cut(request)
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        assert (await client.chat(REQUEST, PATIENT)).failure is None
        got = await client.chat(REQUEST, PATIENT)
    assert got.failure.reason is FailureReason.STREAM_CUT
    assert requests == 2


async def test_turns_of_one_session_share_a_connection():
    peers: set[object] = set()

    async def chat(request: web.Request) -> web.StreamResponse:
        peers.add(request.transport.get_extra_info("peername"))
        return await streaming(chunk("one", "stop"), DONE)(request)

    async with serving(chat) as url, EngineClient(url) as client:
        for _ in range(3):
            await client.chat(REQUEST, PATIENT)
    assert len(peers) == 1


async def models(_request: web.Request) -> web.StreamResponse:
    cards = [{"id": "tiny", "max_model_len": 8192}, {"id": "lora"}]
    return web.json_response({"object": "list", "data": cards})


async def version(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"version": "0.32.0"})


async def test_the_engine_is_known_by_its_first_model_and_its_version():
    async with serving(streaming(DONE), v1__models=models, version=version) as url:
        async with EngineClient(url) as client:
            assert await client.info() == EngineInfo("tiny", 8192, "0.32.0", simulated=False)
        async with EngineClient(url, model="lora") as client:
            assert await client.info() == EngineInfo("lora", None, "0.32.0", simulated=False)


async def test_a_wanted_model_that_is_not_served_is_named_with_those_that_are():
    async with serving(streaming(DONE), v1__models=models) as url:
        async with EngineClient(url, model="big") as client:
            with pytest.raises(
                EngineUnavailableError, match="'big', it serves tiny, lora"
            ) as error:
                await client.info()
    assert error.value.reason == FailureReason.MODEL_NOT_FOUND


async def test_an_engine_without_version_or_tokenize_is_still_an_engine():
    async with serving(streaming(DONE), v1__models=models) as url, EngineClient(url) as client:
        assert (await client.info()).version is None
        assert await client.count_tokens("tiny", [], ()) is None


async def test_a_page_that_is_not_json_is_a_protocol_failure():
    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>hello</html>")

    async with serving(streaming(DONE), v1__models=page) as url, EngineClient(url) as client:
        with pytest.raises(EngineUnavailableError) as error:
            await client.info()
    assert error.value.reason == FailureReason.PROTOCOL


async def test_a_certificate_nobody_vouches_for_is_refused_unless_told_otherwise(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", streaming(chunk("one", "stop"), DONE))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://localhost:{runner.addresses[0][1]}"
    try:
        async with EngineClient(url) as client:
            got = await client.chat(REQUEST, PATIENT)
            assert got.failure.reason is FailureReason.CONNECT_FAILED
        async with EngineClient(url, verify_tls=False) as client:
            assert (await client.chat(REQUEST, PATIENT)).failure is None
        async with EngineClient(url, ca_file=str(certificate)) as client:
            got = await client.chat(REQUEST, Deadlines())
            assert got.failure is None
            assert got.sent_at < got.token_times[0]
    finally:
        await runner.cleanup()


def test_prompts_and_salts_stay_out_of_what_is_printed():
    assert "secret prompt" not in repr(REQUEST)
    assert "salt'" not in repr(REQUEST)


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
            client.answered_by(process)
        assert client.capabilities.refuses_salts, "none of these is known to be another process"
        client.answered_by("second")
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


async def adapters(_request: web.Request) -> web.StreamResponse:
    cards = [
        {"id": "tiny", "max_model_len": 8192},
        {"id": "lora", "parent": "tiny"},
        {"id": "bare"},
    ]
    return web.json_response({"object": "list", "data": cards})


async def test_an_adapters_context_is_its_parents_and_another_is_learned_from_a_refusal():
    async def chat(request: web.Request) -> web.StreamResponse:
        message = "This model's maximum context length is 3000 tokens. However, you requested 4000"
        return web.json_response({"error": {"message": message}}, status=400)

    async with serving(chat, v1__models=adapters) as url:
        async with EngineClient(url, model="lora") as client:
            assert (await client.info()).max_model_len == 8192
        async with EngineClient(url, model="bare") as client:
            assert (await client.info()).max_model_len is None
            failure = (await client.chat(replace(REQUEST, model="bare"), PATIENT)).failure
            assert failure.reason is FailureReason.PROMPT_TOO_LONG
            assert (await client.info()).max_model_len == 3000


async def test_an_odd_usage_costs_the_tokens_of_its_turn_and_not_its_times():
    odd = b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'
    async with serving(streaming(chunk("one", "stop"), odd, DONE)) as url:
        async with EngineClient(url) as client:
            got = await client.chat(REQUEST, PATIENT)
    assert got.failure is None
    assert got.usage is None
    assert got.usage_fault == "usage has no prompt_tokens"
    assert got.sent_at <= got.token_times[0]
