"""The client's own error on time to first token, compared with a raw socket in the same run.

A server in another process streams chat completions. The text of the first content chunk is the
time when it was sent (CLOCK_MONOTONIC is the same clock in all processes of a machine). The error
of a client is its time of that chunk minus the time in it. Three clients take turns: a bare asyncio
protocol, the exporter's client, and plain aiohttp that takes the time where it iterates the body.

Exits with 1 if the exporter's client differs from the raw one by more than the bounds below.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp
import uvloop
from figures import Figure

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.engine.wire.surfaces import chat_completions

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

MEDIAN_BOUND_ALONE, P99_BOUND_ALONE, MEDIAN_BOUND_CROWD = 1.5, 2.0, 3.0
CROWD = 64
MARK = "sent at "


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    data = b"data: " + json.dumps(body | {"choices": [choice]}).encode() + b"\n\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            await reader.readexactly(length)
            read_at = time.perf_counter()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                b"transfer-encoding: chunked\r\n\r\n" + _event({"role": "assistant", "content": ""})
            )
            await asyncio.sleep(random.uniform(0.01, 0.02))
            at = time.perf_counter()
            writer.write(_event({"content": f"{MARK}{at!r} after {at - read_at!r} s"}))
            for _ in range(8):
                await asyncio.sleep(0.001)
                writer.write(_event({"content": " word"}))
            done = b"data: [DONE]\n\n"
            writer.write(
                _event({}, "stop") + f"{len(done):x}\r\n".encode() + done + b"\r\n0\r\n\r\n"
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _serve(listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_serve_one, sock=listener, ssl=tls)
        async with server:
            await server.serve_forever()

    uvloop.run(main())


class RawClient(asyncio.Protocol):
    """A minimal client: take the time of each piece, look for the mark, count the end."""

    def __init__(self) -> None:
        self.error = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        at = time.perf_counter()
        before = len(self._seen)
        self._seen += data
        found = self._seen.find(MARK.encode())
        if found >= before:
            self.error = at - float(self._seen[found + len(MARK) :].split(b" ")[0])
        if self._seen.endswith(b"0\r\n\r\n") and not self.done.done():
            self.done.set_result(None)


async def raw(port: int) -> float:
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(RawClient, "127.0.0.1", port)
    body = json.dumps(chat_completions.body(REQUEST)).encode()
    transport.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )
    await client.done
    transport.close()
    return client.error


REQUEST = ChatRequest("m", [{"role": "user", "content": "hello " * 200}], 16)


async def ours(client: EngineClient) -> float:
    chat = await client.chat(REQUEST, Deadlines())
    if chat.failure is not None:
        raise RuntimeError(chat.failure.detail)
    return chat.token_times[0] - float(str(chat.message["content"])[len(MARK) :].split(" ")[0])


async def plain(session: aiohttp.ClientSession, port: int) -> float:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    error = None
    async with session.post(url, json=chat_completions.body(REQUEST)) as response:
        async for line in response.content:
            at = time.perf_counter()
            if error is None and MARK.encode() in line:
                chunk = json.loads(line.removeprefix(b"data: "))
                text = chunk["choices"][0]["delta"]["content"]
                error = at - float(text[len(MARK) :].split(" ")[0])
    if error is None:
        raise RuntimeError("the stream had no mark")
    return error


async def measure(port: int, concurrency: int, rounds: int) -> dict[str, list[float]]:
    errors: dict[str, list[float]] = {"raw": [], "exporter": [], "aiohttp": []}
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        EngineClient(f"http://127.0.0.1:{port}") as client,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        for turn in range(rounds + 1):
            for name in random.sample(list(errors), len(errors)):
                calls: Callable[[], Awaitable[float]] = {
                    "raw": lambda: raw(port),
                    "exporter": lambda: ours(client),
                    "aiohttp": lambda: plain(session, port),
                }[name]
                got = await asyncio.gather(*(calls() for _ in range(concurrency)))
                if turn:  # the first round warms up
                    errors[name] += got
    return errors


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def report(title: str, errors: dict[str, list[float]]) -> tuple[float, float]:
    """Print a row per client; the exporter's median and p99 over the raw client's."""
    print(f"{title}: client's stamp minus server's send stamp, ms")
    raw_median, raw_p99 = statistics.median(errors["raw"]), p99(errors["raw"])
    for name, values in errors.items():
        median, high = statistics.median(values), p99(values)
        median_text = f"median {median * 1e3:7.3f} ({median / raw_median:5.2f}x)"
        p99_text = f"p99 {high * 1e3:7.3f} ({high / raw_p99:5.2f}x)"
        print(f"  {name:9} n {len(values):4}  {median_text}  {p99_text}")
    ours_ = errors["exporter"]
    return statistics.median(ours_) / raw_median, p99(ours_) / raw_p99


@contextmanager
def server(tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server in another process."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener, tls))
    process.start()
    try:
        yield listener.getsockname()[1]
    finally:
        process.terminate()
        process.join()


def run(rounds: int, crowd_rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The errors of each client, with one and with many streams, against a new server."""
    with server() as port:
        return (
            uvloop.run(measure(port, 1, rounds)),
            uvloop.run(measure(port, CROWD, crowd_rounds)),
        )


def parts(values: list[float], count: int) -> list[list[float]]:
    """Parts in the order of time, so that each has its own spread."""
    size = -(-len(values) // count)
    return [values[start : start + size] for start in range(0, len(values), size)]


def figures(rounds: int, crowd_rounds: int) -> list[Figure]:
    """The client's error, and its ratio to that of the raw socket."""
    made = []
    for errors, count in zip(run(rounds, crowd_rounds), (1, CROWD), strict=True):
        ours_, raw_ = errors["exporter"], errors["raw"]
        streams = f"{count} stream{'s' if count > 1 else ''}"
        title = f"own error on time to first token, {streams}"
        cut = (
            10 if count == 1 else 1
        )  # many streams answer in bursts: only all of them together have a meaning
        ratios = [
            statistics.median(mine) / statistics.median(theirs)
            for mine, theirs in zip(parts(ours_, cut), parts(raw_, cut), strict=True)
        ]
        bound = MEDIAN_BOUND_ALONE if count == 1 else MEDIAN_BOUND_CROWD
        in_ms = tuple(each * 1e3 for each in ours_)
        made += [
            Figure(f"ttft_{count}", title, "ms", in_ms),
            Figure(
                f"ttft_ratio_{count}", f"{title}, over a raw socket's", "x", tuple(ratios), bound
            ),
        ]
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300, help="rounds at concurrency 1")
    parser.add_argument("--crowd-rounds", type=int, default=12, help=f"rounds at {CROWD}")
    options = parser.parse_args()
    one, many = run(options.rounds, options.crowd_rounds)
    alone, crowd = report("one stream", one), report(f"{CROWD} streams", many)
    good = (
        alone[0] <= MEDIAN_BOUND_ALONE
        and alone[1] <= P99_BOUND_ALONE
        and crowd[0] <= MEDIAN_BOUND_CROWD
    )
    print(
        f"bounds: median {MEDIAN_BOUND_ALONE}x and p99 {P99_BOUND_ALONE}x alone, "
        f"median {MEDIAN_BOUND_CROWD}x with {CROWD}: {'kept' if good else 'NOT KEPT'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
