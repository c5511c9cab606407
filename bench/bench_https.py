"""The client's own error on time to first token for http and https, compared with a raw socket.

The server writes into its first chunk how long after the request's last byte it sent that chunk.
The error of a client is the time to first token that it measured minus that time. Two clients take
turns, each on one connection: a bare asyncio protocol (over TLS for https), and the exporter's
client.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import statistics
import time
from pathlib import Path
from typing import cast

import uvloop
from bench_ttft import MARK, REQUEST, parts, server
from figures import Figure

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.engine.wire.surfaces import chat_completions

CERTIFICATES = Path(__file__).parents[1] / "tests" / "web" / "certificates"
GOAL_MS = 0.1
"""The largest allowed difference of the medians of the exporter's client and the raw socket."""
_PARTS = 10


class RawClient(asyncio.Protocol):
    """A minimal client: one time before the write, and one at the chunk with the mark."""

    def __init__(self) -> None:
        self._seen = b""
        self._first_at = 0.0
        self._done = asyncio.get_running_loop().create_future()
        body = json.dumps(chat_completions.body(REQUEST)).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # of a TCP connection

    def data_received(self, data: bytes) -> None:
        at = time.perf_counter()
        new = MARK.encode() not in self._seen
        self._seen += data
        if new and MARK.encode() in self._seen:
            self._first_at = at
        if self._seen.endswith(b"0\r\n\r\n"):
            self._done.set_result(None)

    async def error(self) -> float:
        self._seen, self._done = b"", asyncio.get_running_loop().create_future()
        sent_at = time.perf_counter()
        self._transport.write(self._request)
        await self._done
        return self._first_at - sent_at - _own_time(self._seen.decode())


async def _exporters_error(client: EngineClient) -> float:
    chat = await client.chat(REQUEST, Deadlines())
    if chat.failure is not None or chat.sent_at is None:
        raise RuntimeError(f"the exporter's client failed: {chat.failure}")
    return chat.token_times[0] - chat.sent_at - _own_time(str(chat.message["content"]))


def _own_time(text: str) -> float:
    """The server's own part: from the request's last byte to its first chunk."""
    return float(text.partition(MARK)[2].split(" ")[2])


async def _measure(port: int, tls: ssl.SSLContext | None, rounds: int) -> dict[str, list[float]]:
    loop = asyncio.get_running_loop()
    transport, raw = await loop.create_connection(RawClient, "127.0.0.1", port, ssl=tls)
    url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
    errors: dict[str, list[float]] = {"raw": [], "exporter": []}
    async with EngineClient(url, ca_file=str(CERTIFICATES / "ca.pem")) as client:
        for turn in range(rounds + 1):
            for name in random.sample(list(errors), len(errors)):
                error = await (raw.error() if name == "raw" else _exporters_error(client))
                if turn:  # the first round connects
                    errors[name].append(error)
    transport.close()
    return errors


def _over(scheme: str, rounds: int) -> dict[str, list[float]]:
    if scheme == "http":
        with server() as port:
            return uvloop.run(_measure(port, None, rounds))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(CERTIFICATES / "first.pem", CERTIFICATES / "first.key")
    asking = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    with server(serving) as port:
        return uvloop.run(_measure(port, asking, rounds))


def figures(rounds: int) -> list[Figure]:
    """The error of both clients for http and https, and their difference."""
    made = []
    for scheme in ("http", "https"):
        errors = _over(scheme, rounds)
        pairs = zip(parts(errors["exporter"], _PARTS), parts(errors["raw"], _PARTS), strict=True)
        apart = [abs(statistics.median(ours) - statistics.median(raw)) for ours, raw in pairs]
        title = f"own error on a whole time to first token, {scheme}"
        made += [
            Figure(f"ttft_{scheme}", title, "ms", _in_ms(errors["exporter"])),
            Figure(f"ttft_{scheme}_raw", f"{title}, raw socket", "ms", _in_ms(errors["raw"])),
            Figure(f"ttft_{scheme}_apart", f"{title}, apart", "ms", _in_ms(apart), GOAL_MS),
        ]
    return made


def _in_ms(seconds: list[float]) -> tuple[float, ...]:
    return tuple(each * 1e3 for each in seconds)
