"""Limits concurrent scrapes, so that a large fleet does not occupy the event loop at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ScrapeLimiter:
    """Allows `count` concurrent scrapes.

    An engine whose last scrape timed out (`slow`) is likely to occupy its slot for the whole
    timeout again. Such engines share half of the slots, so hung engines cannot starve the others.
    """

    def __init__(self, count: int) -> None:
        self._all = asyncio.Semaphore(count)
        self._for_slow = asyncio.Semaphore(max(1, count // 2))

    @asynccontextmanager
    async def slot(self, *, slow: bool) -> AsyncIterator[None]:
        """Wait for a slot, and hold it until the end."""
        if not slow:
            async with self._all:
                yield
            return
        async with self._for_slow, self._all:
            yield
