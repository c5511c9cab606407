"""The deadlines of a streamed answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from exporter.engine.wire.request import Deadlines


class DeadlineTimer:
    """Limits the time to the first token, then from token to token, and always the whole answer.

    The first-token and whole-answer deadlines count from the start, even if the request is sent
    again.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self.deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._end = self._started + deadlines.whole
        self._tokens = 0
        self._timer: asyncio.Timeout | None = None

    def running(self) -> asyncio.Timeout:
        self._timer = asyncio.timeout_at(min(self._end, self._started + self.deadlines.first_token))
        return self._timer

    def left(self) -> float:
        """Seconds until the current deadline."""
        when = None if self._timer is None else self._timer.when()
        return max(0.0, (self._end if when is None else when) - self._loop.time())

    def elapsed(self) -> float:
        """Seconds since the timer was made."""
        return self._loop.time() - self._started

    def token(self) -> None:
        self._tokens += 1
        if self._timer is not None:
            self._timer.reschedule(self._next(self.deadlines.between_tokens))

    def failure(self, error: TimeoutError) -> Failure:
        """The failure of the deadline that passed."""
        limits = self.deadlines
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Failure(
                FailureReason.CONNECT_TIMEOUT, f"no connection within {limits.connect:g} s"
            )
        if self._loop.time() >= self._end:
            return Failure(
                FailureReason.TURN_TIMEOUT, f"the answer was not complete within {limits.whole:g} s"
            )
        if self._tokens == 0:
            return Failure(
                FailureReason.FIRST_TOKEN_TIMEOUT, f"no first token within {limits.first_token:g} s"
            )
        return Failure(
            FailureReason.STALLED,
            f"no further token within {limits.between_tokens:g} s after {self._tokens}",
        )

    def _next(self, seconds: float) -> float:
        return min(self._end, self._loop.time() + seconds)
