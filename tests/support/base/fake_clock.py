"""A clock whose hands a test turns: nothing in it waits for real time."""

from __future__ import annotations

import asyncio
import heapq
import itertools

_PATIENCE = 10.0  # real seconds that `until_asleep` waits before it gives the test up
_SETTLE_ROUNDS = 20  # turns of the event loop in which a woken task may act before time goes on


class FakeClock:
    """Implements `exporter.clock.Clock`. `sleep` returns when `advance` has passed its end.

    A loop under test is driven like this:

        task = asyncio.create_task(loop.run())
        await clock.until_asleep()   # the first round is over and the loop sleeps
        await clock.advance(10.0)    # its sleep ends
        await clock.until_asleep()   # the second round is over
    """

    def __init__(self, *, monotonic: float = 1_000.0, unix: float = 1_700_000_000.0) -> None:
        self._now = monotonic
        self._unix_offset = unix - monotonic
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._changed = asyncio.Condition()

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now + self._unix_offset

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (self._now + seconds, next(self._order), woken)
        heapq.heappush(self._sleepers, entry)
        try:
            async with self._changed:
                self._changed.notify_all()
            await woken
        finally:
            if entry in self._sleepers:  # cancelled while asleep
                self._sleepers.remove(entry)
                heapq.heapify(self._sleepers)

    @property
    def asleep(self) -> int:
        """How many tasks sleep now."""
        return len(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Turn the hands on, stopping at each sleep's end so that its task acts at that time."""
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now = max(self._now, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._now:
                woken = heapq.heappop(self._sleepers)[2]
                if not woken.done():
                    woken.set_result(None)
            await self.settle()
        self._now = end
        await self.settle()

    def jump(self, seconds: float) -> None:
        """Turn the hands on without waking anybody: time passes while a task is at work."""
        self._now += seconds

    async def settle(self) -> None:
        """Let every task run that can run without I/O."""
        for _ in range(_SETTLE_ROUNDS):
            await asyncio.sleep(0)

    async def until_asleep(self, count: int = 1) -> None:
        """Wait, in real time, until at least `count` tasks sleep on this clock."""
        async with asyncio.timeout(_PATIENCE), self._changed:
            await self._changed.wait_for(lambda: len(self._sleepers) >= count)
