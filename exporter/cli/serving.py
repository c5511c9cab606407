"""What the long-running commands share: the event loop and the end by signal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
HELD = (signal.SIGTERM, signal.SIGHUP)
"""The signals that cli/main.py holds back while the program is imported, where it can."""


def run_until_signal(
    main: Callable[[asyncio.Event], Awaitable[None]],
    *,
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Run `main` on uvloop; SIGTERM and SIGINT set the event it is given. The exit code is 0.

    A second such signal ends the process at once: somebody is in a hurry. SIGHUP calls `on_hangup`,
    and without that it ends the process, as when its terminal is closed.
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
