"""How many engines are read at once, so that a fleet does not come down on the loop together."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ScrapeLimiter:
    """`count` places for readings that go on at the same time.

    An engine that hung at its last reading (`slow`) is likely to keep its place for the whole
    timeout again. Such engines share half of the places, so that however many hang, the other
    half passes quickly from one sound engine to the next.
    """

    def __init__(self, count: int) -> None:
        self._all = asyncio.Semaphore(count)
        self._for_slow = asyncio.Semaphore(max(1, count // 2))

    @asynccontextmanager
    async def taken(self, *, slow: bool) -> AsyncIterator[None]:
        """Wait for a place, and hold it until the end."""
        if not slow:
            async with self._all:
                yield
            return
        async with self._for_slow, self._all:
            yield
