"""Time as an argument, so that tests can turn the hands."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What a loop may know about time."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary origin; never goes back. For durations and deadlines."""

    def time(self) -> float:
        """Unix time in seconds. For showing to people and to Prometheus only."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.perf_counter()

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
