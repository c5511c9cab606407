"""/v1/chat/completions: what the other APIs are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.simulator.apis.api import Api, Json, Played, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator


async def _events(_chat: Played, chunks: AsyncIterator[Json]) -> AsyncGenerator[str, None]:
    async for chunk in chunks:
        yield event(chunk)


_LAST = "data: [DONE]\n\n"
API = Api(
    chat_body=lambda body: body,
    whole=lambda _chat, answer: answer,
    events=_events,
    last=_LAST,
    broken=lambda error: event(error) + _LAST,
    refused=lambda error: error,
)
