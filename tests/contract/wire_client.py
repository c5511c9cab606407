"""Talks to an engine as plainly as can be, so that the contract tests judge bytes, not a client."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    import aiohttp

Json = dict[str, Any]
PATIENCE = 300.0  # seconds for whatever is waited for; a CPU server takes its time


@dataclass(frozen=True, slots=True)
class Streamed:
    """A whole stream: its chunks in order, and whether [DONE] came last."""

    content_type: str
    chunks: list[Json]
    done: bool

    @property
    def steps(self) -> list[Json]:
        """The chunks after the role-only first one that have a choice."""
        return [chunk for chunk in self.chunks[1:] if chunk["choices"]]

    @property
    def token_ids(self) -> list[int]:
        return [number for chunk in self.steps for number in chunk["choices"][0]["token_ids"]]

    @property
    def text(self) -> str:
        deltas = [chunk["choices"][0]["delta"] for chunk in self.steps]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def usage(self) -> Json:
        usage: Json = self.chunks[-1]["usage"]
        return usage

    @property
    def cached(self) -> int:
        cached: int = self.usage["prompt_tokens_details"]["cached_tokens"]
        return cached


class Wire:
    """One engine at a URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str) -> None:
        self.session = session
        self.url = url
        self.model = model

    async def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text(), dict(response.headers)

    async def post(
        self, path: str, body: object, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Json]:
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def post_raw(self, path: str, body: bytes, content_type: str) -> tuple[int, Json]:
        headers = {"Content-Type": content_type}
        async with self.session.post(self.url + path, data=body, headers=headers) as response:
            return response.status, await response.json()

    def body(self, messages: Sequence[Json], **changed: Any) -> Json:
        """A greedy request whose answer has exactly `max_tokens` tokens."""
        base = {"model": self.model, "messages": list(messages), "temperature": 0}
        return base | {"max_tokens": 8, "ignore_eos": True, "return_token_ids": True} | changed

    async def chat(self, messages: Sequence[Json], **changed: Any) -> Json:
        status, answer = await self.post("/v1/chat/completions", self.body(messages, **changed))
        assert status == 200, answer
        return answer

    async def stream(self, messages: Sequence[Json], **changed: Any) -> Streamed:
        body = self.body(messages, stream=True, stream_options={"include_usage": True}) | changed
        async with self.session.post(self.url + "/v1/chat/completions", json=body) as response:
            assert response.status == 200, await response.text()
            events = [event async for event in events_of(response)]
        done = bool(events) and events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in (events[:-1] if done else events)]
        return Streamed(response.headers["Content-Type"], chunks, done)

    async def tokenize(self, messages: Sequence[Json], **changed: Any) -> Json:
        body = {"model": self.model, "messages": list(messages)} | changed
        status, answer = await self.post("/tokenize", body)
        assert status == 200, answer
        return answer

    async def messages_of(self, tokens: int) -> list[Json]:
        """Messages that make a prompt of exactly so many tokens."""
        words = ""
        for _ in range(4):
            messages = [{"role": "user", "content": "count" + words}]
            missing = tokens - (await self.tokenize(messages))["count"]
            if missing == 0:
                return messages
            words += " a" * missing
        raise AssertionError(f"no prompt of {tokens} tokens in reach")

    async def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample of /metrics by name and labels."""
        _, page, _ = await self.get("/metrics")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    async def metric(self, name: str) -> float:
        """A family's value, all series added up."""
        found = [value for (each, _), value in (await self.samples()).items() if each == name]
        assert found, f"{name} is not on the page"
        return sum(found)

    async def cache_config(self) -> dict[str, str]:
        """The labels of `vllm:cache_config_info`."""
        return next(
            dict(labels)
            for name, labels in await self.samples()
            if name == "vllm:cache_config_info"
        )

    async def idle(self) -> None:
        """Wait until no request runs."""

        async def nothing_runs() -> bool:
            return await self.metric("vllm:num_requests_running") == 0

        await until(nothing_runs)


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of each server-sent event; anything else between them is a mistake."""
    async for line in response.content:
        if line != b"\n":
            assert line.startswith(b"data: "), line
            yield line.removeprefix(b"data: ").rstrip(b"\n").decode()


async def until(condition: Any) -> None:
    """Wait for a condition, a plain or a coroutine function; asks ever less often."""
    pause = 0.02
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = condition()
            if await seen if inspect.isawaitable(seen) else seen:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)


def fresh_salt() -> str:
    return os.urandom(12).hex()
