"""Several simulated engines in one process, which a test can stop or kill as one.

`python many_engines.py COUNT [prefill]` writes their URLs as a line of JSON, and serves until its
standard input ends. They answer at once; with `prefill` they take their time for a prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING

from exporter import logs
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def _serve(count: int, *, prefill: bool) -> None:
    settings = SimulatorSettings(
        port=0, time_scale=float(prefill), decode_seconds_per_token=0.0, jitter_ratio=0.0
    )
    async with contextlib.AsyncExitStack() as stack:
        engines = [Simulator(settings) for _ in range(count)]
        for each in engines:
            await stack.enter_async_context(each)
        print(json.dumps([each.url for each in engines]), flush=True)  # noqa: T201 - to the test
        await asyncio.to_thread(sys.stdin.read)


class Engines:
    """A process of engines."""

    def __init__(self, process: asyncio.subprocess.Process, urls: list[str]) -> None:
        self.process = process
        self.urls = urls


@contextlib.asynccontextmanager
async def engines_of(count: int) -> AsyncIterator[Engines]:
    """That many engines in a process of their own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, str(count)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield Engines(process, json.loads(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()  # a stopped one ends by nothing less
        await process.wait()


if __name__ == "__main__":
    logs.configure("console", "error")
    asyncio.run(_serve(int(sys.argv[1]), prefill=sys.argv[2:] == ["prefill"]))
