"""One prompt sent twice at the same time: nothing can empty the cache between the two.

vLLM empties no cache while a request uses some of it (`reset_prefix_cache` in its
`v1/core/block_pool.py`), so what is sent again while the first one is being answered must hit.
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
    """What came of both. `second` begins once `first` called back that its answer has begun, or
    ended.
    """
    begun = asyncio.Event()

    async def answered() -> _T:
        try:
            return await first(lambda _chunks: begun.set())
        finally:
            begun.set()

    async with asyncio.TaskGroup() as group:
        one = group.create_task(answered())
        await begun.wait()
        two = await second()
    return one.result(), two
