"""How commands run until a signal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
HELD = (signal.SIGTERM, signal.SIGHUP)
"""The signals that cli/main.py blocks during the imports."""


def run_until_signal(
    main: Callable[[asyncio.Event], Awaitable[None]],
    *,
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Run `main` on uvloop. SIGTERM and SIGINT set its event. Returns exit code 0.

    A second SIGTERM or SIGINT ends the process at once. SIGHUP calls `on_hangup`; without it,
    SIGHUP ends the process, as when its terminal closes.
    """

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal(number: int) -> None:
            if stop.is_set():
                os._exit(128 + number)
            stop.set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, on_signal, number)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        await main(stop)

    uvloop.run(serve())
    return 0


async def until_signal(
    work: Coroutine[None, None, T],
    *,
    tick: Callable[[], None] = lambda: None,
    tick_seconds: float | None = None,
) -> tuple[T | None, int | None]:
    """The result of `work`. SIGINT or SIGTERM cancels it and returns None and the signal's number.

    Meanwhile it calls `tick` every `tick_seconds`.
    """
    caught: list[int] = []
    task = asyncio.create_task(work, name="until_signal")

    def on_signal(number: int) -> None:
        caught.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=tick_seconds)
            tick()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    if caught and task.cancelled():
        return None, caught[0]
    return task.result(), None
