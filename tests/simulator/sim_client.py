"""A simulator and a client for it, for the tests of this folder."""

from __future__ import annotations

import asyncio
import inspect
import json
from contextlib import asynccontextmanager

import aiohttp

from exporter.simulator.server import Simulator, SimulatorSettings

AT_ONCE = {"port": 0, "model": "tiny", "time_scale": 0.0, "answer_tokens": 40}
PATIENCE = 20.0
HELLO = [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": "Hello?"}]


@asynccontextmanager
async def simulator(*, clock=None, on_exit=None, **changed):
    """A running simulator that answers at once, and a client for it."""
    settings = SimulatorSettings(**(AT_ONCE | changed))
    running = Simulator(settings, clock=clock, on_exit=on_exit)
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session, running:
        yield running, Client(session, running.url)


async def until(condition):
    """Wait for a condition, sync or async."""
    while True:
        seen = condition()
        if await seen if inspect.isawaitable(seen) else seen:
            return
        await asyncio.sleep(0.002)


class Client:
    def __init__(self, session, url):
        self.session, self.url = session, url

    async def get(self, path, **options):
        async with self.session.get(self.url + path, **options) as response:
            return response.status, await _body(response)

    async def post(self, path, body, **options):
        async with self.session.post(self.url + path, json=body, **options) as response:
            return response.status, await _body(response)

    async def delete(self, path):
        async with self.session.delete(self.url + path) as response:
            return response.status, await _body(response)

    async def fault(self, **body):
        status, answer = await self.post("/faults", body)
        assert status == 200, answer
        return answer

    async def chat(self, **changed):
        body = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 8}
        return await self.post("/v1/chat/completions", body | changed)

    async def stream(self, **changed):
        """The events of a streamed answer, and "cut" if the connection broke."""
        options = {"include_usage": True}
        body = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 8}
        body |= {"stream": True, "stream_options": options, "return_token_ids": True} | changed
        events = []
        try:
            async with self.session.post(self.url + "/v1/chat/completions", json=body) as response:
                assert response.status == 200
                async for line in response.content:
                    if line.startswith(b"data: "):
                        text = line.removeprefix(b"data: ").strip()
                        events.append("done" if text == b"[DONE]" else json.loads(text))
        except aiohttp.ClientError:
            events.append("cut")
        return events

    async def refused(self):
        try:
            await self.get("/health")
        except aiohttp.ClientConnectionError:
            return True
        return False

    async def answers(self):
        return not await self.refused()

    async def metric(self, name):
        _, page = await self.get("/metrics")
        values = [line.split()[-1] for line in page.splitlines() if line.startswith(name)]
        return sum(map(float, values)) if values else None


async def _body(response):
    text = await response.text()
    return json.loads(text) if "json" in response.headers.get("Content-Type", "") else text
