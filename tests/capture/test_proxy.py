"""The recording proxy: what it passes on, what it records, and what it survives."""

import asyncio
import gzip
import io
import json
import resource
import stat

import aiohttp
import pytest
from aiohttp import web

from exporter.capture.proxy import Proxy
from exporter.capture.recording_file import RecordingFile
from exporter.capture.serving import serving
from exporter.errors import ConfigError, ExporterError
from exporter.recording.reading import read_recording

KEY, COOKIE = "sk-canary-key", "session=canary-cookie"
BODY = {"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}
CHUNKS = [
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"he"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"llo"}}]}\n\ndata: {"cho',
    b'ices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,',
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\ndata: [DONE]\n\n',
]
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 4},
}


class Engine:
    """A server that answers as the test says, and remembers what it got."""

    def __init__(self):
        self.got, self.raw = [], []
        self.answer = self.stream
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    async def handle(self, request):
        self.raw.append(request.raw_path)
        self.got.append((request.method, request.path_qs, request.headers, await request.read()))
        try:
            return await self.answer(request)
        finally:
            self.ended.set()

    async def stream(self, request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Own": "1"})
        await response.prepare(request)
        for chunk in CHUNKS:
            await response.write(chunk)
            await asyncio.sleep(0)
        return response

    async def step_by_step(self, request):
        """Writes the next chunk only when the client has got the one before."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for chunk in CHUNKS:
            await response.write(chunk)
            await self.go_on.wait()
            self.go_on.clear()
        return response


@pytest.fixture
async def engine():
    return Engine()


@pytest.fixture
async def engine_url(engine):
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    runner = web.AppRunner(
        app, handler_cancellation=True, shutdown_timeout=0.1, max_field_size=1 << 16
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class WatchedFile(RecordingFile):
    """A file that tells when a line comes."""

    def __init__(self, path, most_bytes):
        super().__init__(path, most_bytes)
        self.added, self.changed = 0, asyncio.Event()

    def add(self, body, facts):
        super().add(body, facts)
        self.added += 1
        self.changed.set()


class Capture:
    """A proxy, its file and a client."""

    def __init__(self, url, file, client, proxy):
        self.url, self.file, self.client, self.proxy = url, file, client, proxy

    def lines(self):
        return [json.loads(line) for line in self.file.path.read_text("utf-8").splitlines()]

    async def written(self, count):
        """Waits until so many requests have ended, and gives the lines of the file."""
        while self.file.added < count:
            await self.file.changed.wait()
            self.file.changed.clear()
        await self.file.flushed()
        return self.lines()

    async def post(self, path="/v1/chat/completions", body=BODY, **more):
        async with self.client.post(f"{self.url}{path}", json=body, **more) as answer:
            return answer.status, await answer.read()


@pytest.fixture
async def capture_of(tmp_path):
    """Makes a capture of an engine. `most_bytes` bounds its file."""
    opened = []

    async def make(url, most_bytes=1 << 30):
        file = WatchedFile(tmp_path / f"requests{len(opened)}.jsonl", most_bytes)
        proxy = Proxy(url, file)
        serve = serving(proxy, "127.0.0.1", 0)
        await file.__aenter__()
        port = await serve.__aenter__()
        client = aiohttp.ClientSession()
        opened.extend((client, serve, file))
        return Capture(f"http://127.0.0.1:{port}", file, client, proxy)

    yield make
    for each in opened:
        await each.__aexit__(None, None, None)


@pytest.fixture
async def capture(capture_of, engine_url):
    return await capture_of(engine_url)


async def test_a_stream_passes_byte_for_byte_and_is_recorded_as_one_answer(capture):
    status, body = await capture.post()
    (line,) = await capture.written(1)
    assert (status, body) == (200, b"".join(CHUNKS))
    assert line["request"] == BODY
    assert line["path"] == "/v1/chat/completions"
    message = {"role": "assistant", "content": "hello"}
    assert line["response"] == {"choices": [{"message": message}], "usage": USAGE}
    assert 0 <= line["first_byte_seconds"] <= line["duration_seconds"]


async def test_each_part_of_a_stream_comes_before_the_engine_sends_the_next(capture, engine):
    engine.answer = engine.step_by_step
    async with capture.client.post(f"{capture.url}/v1/chat/completions", json=BODY) as answer:
        for chunk in CHUNKS:
            assert await answer.content.readexactly(len(chunk)) == chunk
            engine.go_on.set()


async def test_what_is_recorded_can_be_explained(capture):
    await capture.post()
    await capture.written(1)
    with capture.file.path.open("rb") as lines:
        (one,) = read_recording(lines, "log").requests
    assert one.usage.cached_tokens == 4
    assert [message.text("content") for message in one.answer] == ["hello"]
    assert one.time > 1_700_000_000


async def test_headers_pass_in_both_directions_but_are_not_recorded(capture, engine):
    headers = {"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY, "Cookie": COOKIE, "X-Mine": "2"}
    url = f"{capture.url}/v1/chat/completions?beta=true"
    async with capture.client.post(url, json=BODY, headers=headers) as answer:
        await answer.read()
        assert answer.headers["X-Own"] == "1"
    await capture.written(1)
    ((method, path, got, _),) = engine.got
    assert (method, path) == ("POST", "/v1/chat/completions?beta=true")
    assert (got["Authorization"], got["X-Mine"]) == (f"Bearer {KEY}", "2")
    assert got.getall("Cookie") == [COOKIE]
    assert "canary" not in capture.file.path.read_text("utf-8")


async def test_the_file_is_for_its_owner_only(capture):
    assert stat.S_IMODE(capture.file.path.stat().st_mode) == 0o600


async def test_a_file_that_exists_is_kept(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text("mine", "utf-8")
    with pytest.raises(ConfigError, match="exists; remove it or name another file"):
        RecordingFile(file, 1)
    assert file.read_text("utf-8") == "mine"


async def test_other_paths_pass_and_are_not_recorded(capture, engine):
    async with capture.client.get(f"{capture.url}/v1/models") as answer:
        assert await answer.read() == b"".join(CHUNKS)
    assert engine.got[0][:2] == ("GET", "/v1/models")
    assert capture.file.written == 0
    assert capture.proxy.counts.other == 1


async def test_a_body_over_many_lines_is_one_line_of_the_recording(capture):
    text = json.dumps(BODY, indent=2).replace("\n", "\r\n")
    async with capture.client.post(
        f"{capture.url}/v1/chat/completions",
        data=text.encode(),
        headers={"Content-Type": "application/json"},
    ) as answer:
        await answer.read()
    (line,) = await capture.written(1)
    assert line["request"] == BODY


async def test_a_compressed_body_passes_as_it_is_and_is_recorded_readable(capture, engine):
    packed = gzip.compress(json.dumps(BODY).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    url = f"{capture.url}/v1/chat/completions"
    async with capture.client.post(url, data=packed, headers=headers) as answer:
        await answer.read()
    (line,) = await capture.written(1)
    assert line["request"] == BODY
    assert engine.got[0][2]["Content-Encoding"] == "gzip"


async def test_an_answer_that_is_not_streamed_is_recorded(capture, engine):
    message = {"role": "assistant", "content": "hi"}
    whole = {"id": "x", "choices": [{"index": 0, "message": message}], "usage": USAGE}

    async def answer(_request):
        return web.json_response(whole)

    engine.answer = answer
    status, body = await capture.post()
    (line,) = await capture.written(1)
    assert (status, json.loads(body)) == (200, whole)
    assert line["response"] == {"choices": [{"message": message}], "usage": USAGE}


async def test_a_refused_request_passes_and_is_counted_but_not_recorded(capture, engine):
    async def answer(_request):
        return web.json_response({"error": {"message": "too long"}}, status=400)

    engine.answer = answer
    status, body = await capture.post()
    assert (status, json.loads(body)["error"]["message"]) == (400, "too long")
    assert (capture.file.written, capture.proxy.counts.refused) == (0, 1)


async def test_a_client_that_hangs_up_ends_the_request_to_the_engine(capture, engine):
    engine.answer = engine.step_by_step
    async with capture.client.post(f"{capture.url}/v1/chat/completions", json=BODY) as answer:
        await answer.content.readexactly(len(CHUNKS[0]))
        answer.close()
    await asyncio.wait_for(engine.ended.wait(), 10)
    (line,) = await capture.written(1)
    assert line["cut"] is True
    assert line["response"]["choices"][0]["message"]["content"] == "he"
    assert capture.proxy.counts.unfinished == 1


async def test_an_engine_that_dies_in_a_stream_cuts_the_stream_of_the_client(capture, engine):
    async def answer(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(CHUNKS[0])
        await engine.go_on.wait()
        request.transport.abort()
        return response

    engine.answer = answer
    async with capture.client.post(f"{capture.url}/v1/chat/completions", json=BODY) as answer:
        assert await answer.content.readexactly(len(CHUNKS[0])) == CHUNKS[0]
        engine.go_on.set()
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    (line,) = await capture.written(1)
    assert line["cut"] is True


async def test_an_engine_that_is_not_there_is_a_502_that_says_so(capture_of):
    capture = await capture_of("http://127.0.0.1:1")
    status, body = await capture.post()
    assert status == 502
    assert (
        "the engine at http://127.0.0.1:1 does not answer" in json.loads(body)["error"]["message"]
    )
    assert capture.file.written == 0


async def test_a_body_of_20_mb_passes_and_is_recorded(capture, engine):
    body = {**BODY, "messages": [{"role": "user", "content": "x" * 20_000_000}]}
    data = io.BytesIO(json.dumps(body).encode())
    async with capture.client.post(f"{capture.url}/v1/chat/completions", data=data) as answer:
        status = answer.status
        await answer.read()
    (line,) = await capture.written(1)
    assert status == 200
    assert len(line["request"]["messages"][0]["content"]) == 20_000_000
    assert json.loads(engine.got[0][3]) == body


async def test_beyond_its_size_the_proxy_goes_on_without_recording(capture_of, engine_url):
    capture = await capture_of(engine_url, most_bytes=700)
    for _ in range(4):
        status, _ = await capture.post()
        assert status == 200
    assert len(await capture.written(4)) == capture.file.written
    assert capture.file.written + capture.file.dropped == 4
    assert capture.file.written >= 1
    assert capture.file.path.stat().st_size <= 700


async def test_64_streams_at_once_are_all_recorded(capture):
    answers = await asyncio.gather(*(capture.post() for _ in range(64)))
    assert {body for _, body in answers} == {b"".join(CHUNKS)}
    assert len(await capture.written(64)) == 64


async def test_an_address_that_is_taken_is_an_error_that_names_the_option(capture):
    port = int(capture.url.rpartition(":")[2])
    with pytest.raises(ExporterError, match=rf"cannot listen on 127.0.0.1:{port}.*--listen"):
        async with serving(capture.proxy, "127.0.0.1", port):
            pass


async def raw(capture, text):
    """All that the proxy answers to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", capture.url.rpartition(":")[2])
    writer.write(text.encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode()


async def test_a_path_reaches_the_engine_as_the_client_wrote_it(capture, engine):
    paths = ("/a%2Fb/%41?q=%2F+c&x=%41", "/a/../b", "http://127.0.0.1:9/v1/models?a=%41")
    for path in paths:
        await raw(capture, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert engine.raw == [*paths[:2], "/v1/models?a=%41"]


async def test_a_client_of_http_1_0_gets_its_stream(capture):
    body = json.dumps(BODY)
    head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await raw(capture, head + body)
    assert answer.startswith("HTTP/1.0 200")
    assert answer.endswith("\r\n\r\n" + b"".join(CHUNKS).decode())
    assert len(await capture.written(1)) == 1


async def test_a_cookie_of_one_client_is_not_sent_for_another(capture_of, engine_url, engine):
    async def answer(_request):
        return web.Response(headers={"Set-Cookie": COOKIE})

    engine.answer = answer
    capture = await capture_of(engine_url.replace("127.0.0.1", "localhost"))
    for _ in range(2):
        await raw(capture, "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [headers.get("Cookie") for _, _, headers, _ in engine.got] == [None, None]


async def test_headers_as_long_as_uvicorn_takes_pass(capture, engine):
    async def answer(_request):
        return web.Response(headers={"X-Answer": "b" * 30_000})

    engine.answer = answer
    key = "a" * 30_000
    head = f"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nConnection: close, X-Own\r\n"
    answer = await raw(capture, f"{head}X-Own: 1\r\nExpect: 100-continue\r\n\r\n")
    assert "b" * 30_000 in answer
    (_, _, headers, _) = engine.got[0]
    assert headers["Authorization"] == key
    assert not {"X-Own", "Expect"} & set(headers)


async def test_a_client_that_hangs_up_before_the_answer_is_counted(capture, engine):
    async def answer(_request):
        engine.go_on.set()
        await asyncio.Event().wait()

    engine.answer = answer
    post = asyncio.ensure_future(capture.post())
    await engine.go_on.wait()
    post.cancel()
    await asyncio.wait_for(engine.ended.wait(), 10)
    assert capture.proxy.counts.unfinished == 1
    assert capture.file.added == 0


async def test_an_answer_that_is_no_http_is_a_502_that_quotes_nothing(capture_of, capfd):
    async def answer(_reader, writer):
        writer.write(b"canary-of-an-answer\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    capture = await capture_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    status, body = await capture.post()
    server.close()
    assert status == 502
    assert b"does not answer with HTTP" in body
    assert "canary" not in body.decode() + "".join(capfd.readouterr())


async def test_the_first_bytes_of_a_request_that_is_no_http_are_not_logged(capture, caplog, capfd):
    await raw(capture, f"GET /a HTTP/1.1\r\nAuthorization {KEY}\r\n\r\n")
    assert KEY not in caplog.text + "".join(capfd.readouterr())


async def test_a_recording_without_a_request_leaves_no_file(tmp_path):
    file = RecordingFile(tmp_path / "requests.jsonl", 1 << 20)
    async with file:
        assert file.path.exists()
    assert not file.path.exists()


async def test_a_disk_that_is_full_ends_the_recording_after_its_last_whole_line(tmp_path):
    file = RecordingFile(tmp_path / "requests.jsonl", 1 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        async with file:
            for _ in range(5):
                file.add(b'"' + b"x" * 40_000 + b'"', {"time": 1})
            await file.flushed()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [json.loads(line)["time"] for line in file.path.read_text().splitlines()] == [1, 1]
    assert (file.written, file.dropped, file.failure) == (2, 3, "File too large")
