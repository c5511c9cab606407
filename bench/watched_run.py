"""`run` as the command does it, with one more task that measures the lag of its event loop.

`python watched_run.py FILE run …` takes the arguments of `run`. The task sleeps 10 ms again and
again. The time above 10 ms is how long other due work waited too. At the end FILE has one line per
sleep: the monotonic time, and the lag in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.cli import main, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

EVERY_SECONDS = 0.01


class Lag:
    """The measurements in two flat arrays: a list of floats would change the measured memory."""

    def __init__(self) -> None:
        self._at = array("d")
        self._seconds = array("d")

    async def watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(EVERY_SECONDS)
            now = time.monotonic()
            self._at.append(now)
            self._seconds.append(now - began - EVERY_SECONDS)

    def write(self, file: Path) -> None:
        pairs = zip(self._at, self._seconds, strict=True)
        lines = [f"{at:.3f} {max(0.0, lag) * 1e3:.3f}\n" for at, lag in pairs]
        file.write_text("".join(lines), "utf-8")


def run(file: Path) -> None:
    """Run the command line; write the file when it ends."""
    run_until_signal = serving.run_until_signal

    def watched(daemon: Callable[[asyncio.Event], Awaitable[None]], **more: Any) -> int:
        async def both(stop: asyncio.Event) -> None:
            lag = Lag()
            task = asyncio.create_task(lag.watch(), name="lag")
            try:
                await daemon(stop)
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                lag.write(file)

        return run_until_signal(both, **more)

    # Its one keyword argument goes through `more`.
    serving.run_until_signal = watched  # type: ignore[assignment]
    main.entry()


if __name__ == "__main__":
    written = Path(sys.argv.pop(1))
    run(written)
