"""Sends one prompt twice, overlapping in time, so nothing can empty the cache in between.

vLLM does not empty a cache that a request uses (`reset_prefix_cache` in its
`v1/core/block_pool.py`), so the second request must hit while the first one is being answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_T = TypeVar("_T")


async def overlapping(
    first: Callable[[Callable[[int], None]], Awaitable[_T]], second: Callable[[], Awaitable[_T]]
) -> tuple[_T, _T]:
    """Both results. `second` starts when `first` reports its first chunk, or ends without one."""
    started = asyncio.Event()

    async def answered() -> _T:
        try:
            return await first(lambda _chunks: started.set())
        finally:
            started.set()

    async with asyncio.TaskGroup() as group:
        one = group.create_task(answered())
        await started.wait()
        two = await second()
    return one.result(), two
