"""Event loops whose long timers a test lets expire, so that no deadline races with the machine."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop

LONG = 1000.0
"""Seconds: a timer of at least this delay is held. Shorter ones run as usual."""


class HeldTimers:
    """Before a loop class: `call_later` keeps long timers until `let_expire` runs them."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[asyncio.Handle] = []

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        if delay < LONG:
            return super().call_later(delay, callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._held.append(handle)
        return handle

    def held(self) -> int:
        """How many long timers run now."""
        return sum(not handle.cancelled() for handle in self._held)

    def let_expire(self) -> None:
        """Run every long timer that was not cancelled, as if its time had passed."""
        due, self._held = self._held, []
        for handle in due:
            if not handle.cancelled():
                handle._run()


class HeldAsyncio(HeldTimers, asyncio.SelectorEventLoop):
    """asyncio's own loop."""


class HeldUvloop(HeldTimers, uvloop.Loop):
    """uvloop's."""
