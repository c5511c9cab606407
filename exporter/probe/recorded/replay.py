"""Sends recorded requests again, in their order, and reads what the engine served from cache.

Each conversation gets a salt of its own: it reads no one else's blocks, and no one reads its. Each
answer is one token long, so what is measured is the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.errors import EngineUnavailableError
from exporter.model.explained import ReplayedRequest
from exporter.model.recorded import Api
from exporter.probe.recorded.rendering import body_to_send
from exporter.recording.messages import usage_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from exporter.clock import Clock
    from exporter.engine.client.engine_client import EngineClient
    from exporter.model.explained import ExplainedRequest
    from exporter.probe.recorded.rendering import Renderer

_LIMITS = {
    Api.CHAT: {"max_completion_tokens": 1},
    Api.MESSAGES: {"max_tokens": 1},
    Api.RESPONSES: {"max_output_tokens": 1, "store": False},
    Api.COMPLETIONS: {"max_tokens": 1},
}
"""What each API calls the longest answer."""
_NO_CALL: dict[Api, Any] = {
    Api.CHAT: "none",
    Api.MESSAGES: {"type": "none"},
    Api.RESPONSES: "none",
}
"""Keeps the tools in the prompt, and is no error on a server without a tool parser."""


class Replay:
    """Sends requests to one engine. `seconds` is the longest wait for one answer.

    `recorded_pace`: with the pauses of the recording, as far as its times are known.
    """

    def __init__(
        self,
        client: EngineClient,
        renderer: Renderer,
        clock: Clock,
        salt: str,
        *,
        seconds: float,
        recorded_pace: bool,
    ) -> None:
        self._client = client
        self._renderer = renderer
        self._clock = clock
        self._salt = salt
        self._seconds = seconds
        self._recorded_pace = recorded_pace

    async def play(self, requests: Sequence[ExplainedRequest]) -> AsyncIterator[ReplayedRequest]:
        """Send each request after the answer to the one before. A refused one is a failure."""
        began, first = self._clock.monotonic(), _first_time(requests)
        for one in requests:
            if self._recorded_pace and first is not None and one.request.time is not None:
                due = began + one.request.time - first
                await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            yield await self._send(one)

    async def _send(self, one: ExplainedRequest) -> ReplayedRequest:
        request = one.request
        body = body_to_send(request, self._renderer.model_of(request))
        own = f"{self._salt}-{one.conversation}-{request.salt or ''}"
        body |= _LIMITS[request.api] | {"cache_salt": own, "stream": False}
        if "tools" in body:
            body["tool_choice"] = _NO_CALL[request.api]
        sent_at = self._clock.monotonic()
        try:
            answer = await self._client.send(request.api, body, self._seconds)
        except EngineUnavailableError as error:
            return ReplayedRequest(one.reusable_tokens, failure=error.detail)
        usage = usage_of(answer)
        if usage.prompt_tokens not in {None, one.prompt_tokens}:
            said = f"the engine counted {usage.prompt_tokens} prompt tokens, not the"
            return ReplayedRequest(
                one.reusable_tokens, failure=f"{said} {one.prompt_tokens} that it rendered"
            )
        return ReplayedRequest(
            one.reusable_tokens,
            usage.cached_tokens,
            usage.prompt_tokens,
            self._clock.monotonic() - sent_at,
        )


def _first_time(requests: Sequence[ExplainedRequest]) -> float | None:
    times = [one.request.time for one in requests if one.request.time is not None]
    return min(times, default=None)
