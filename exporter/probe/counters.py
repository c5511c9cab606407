"""Cached tokens by the engine's own counters, where its usage does not tell them.

`vllm:prefix_cache_queries` and `_hits` count everybody's tokens, so their growth around a request
is that request's only if the engine ran nothing else: idle before and after, the same process, and
exactly this prompt looked up in between. Otherwise the figure is unknown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.clock import Clock
    from exporter.engine.client import Chat, ChatRequest, Deadlines, EngineClient
    from exporter.model import EngineSnapshot
    from exporter.probe.inquiry import Observe

_LOOKS = 20
_BETWEEN_SECONDS = 0.05
"""vLLM counts a step after it has sent the step's tokens, so the end of a stream may be early."""


def counted(
    before: EngineSnapshot | None, after: EngineSnapshot | None, prompt_tokens: int
) -> int | None:
    """The prompt's tokens that came from cache between two readings; None where others' may be in
    it.
    """
    if before is None or after is None or not (idle(before) and idle(after)):
        return None
    if before.process_start_time != after.process_start_time:
        return None
    queried = _growth(before.queried_tokens, after.queried_tokens)
    hits = _growth(before.hit_tokens, after.hit_tokens)
    if queried != prompt_tokens or hits is None or not 0 <= hits <= prompt_tokens:
        return None
    return int(hits) if hits == int(hits) else None


def idle(snapshot: EngineSnapshot) -> bool:
    """Whether nothing ran and nothing waited; unknown is no."""
    return snapshot.requests_running == 0 and snapshot.requests_waiting == 0


class Chats(Protocol):
    """Whatever sends requests: the client, or what stands before it."""

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`."""


class CountedChats:
    """Sends requests as the client does, and fills in what usage leaves out."""

    def __init__(self, client: EngineClient, observe: Observe, clock: Clock) -> None:
        self._client = client
        self._observe = observe
        self._clock = clock
        self._usage_tells = False

    async def chat(
        self,
        request: ChatRequest,
        deadlines: Deadlines,
        on_token: Callable[[int], None] | None = None,
    ) -> Chat:
        """As `EngineClient.chat`."""
        before = None if self._usage_tells else await self._look()
        chat = await self._client.chat(request, deadlines, on_token)
        usage = chat.usage
        if chat.failure is not None or usage is None:
            return chat
        self._usage_tells = usage.cached_tokens is not None
        if self._usage_tells or before is None:
            return chat
        cached = await self._cached(before, usage.prompt_tokens)
        if cached is None:
            return chat
        return replace(chat, usage=replace(usage, cached_tokens=cached, from_counters=True))

    async def _cached(self, before: EngineSnapshot, prompt_tokens: int) -> int | None:
        for look in range(_LOOKS):
            if look:
                await self._clock.sleep(_BETWEEN_SECONDS)
            after = await self._look()
            cached = counted(before, after, prompt_tokens)
            queried = _growth(before.queried_tokens, after.queried_tokens) if after else None
            if cached is not None or queried is None or queried > prompt_tokens:
                return cached
        return None

    async def _look(self) -> EngineSnapshot | None:
        view = await self._observe()
        return view.snapshot if view else None


def _growth(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
