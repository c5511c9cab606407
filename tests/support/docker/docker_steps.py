"""Steps that the tests of the door to Docker share."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, closing

import docker

from exporter.container.decide.records import ContainerStatus

PATIENCE = 60.0  # seconds; only a broken test waits that long
# As process 1, Python ignores SIGTERM unless told otherwise, as any program does.
POLITE = (
    "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(3))\nprint('up')\nsignal.pause()"
)
STUBBORN = "import signal\nprint('up')\nwhile True:\n    signal.pause()"


async def running(engine, launch, secrets=None) -> str:
    """Start a container and wait for the first line that it writes."""
    container = await engine.create(launch, secrets or {})
    await engine.start(container)
    async with asyncio.timeout(PATIENCE), aclosing(engine.logs(container, None)) as lines:
        async for _ in lines:
            break
    return container


async def kill(engine, container: str) -> None:
    """SIGKILL, as by a person: the exporter itself never kills a container."""

    def by_api() -> None:
        with closing(docker.APIClient(engine.host, version="auto")) as api:
            api.kill(container)

    await asyncio.to_thread(by_api)


async def ended(engine, container):
    """The container as it is once it has ended."""
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = await engine.inspect(container)
            assert seen is not None
            if seen.status is ContainerStatus.EXITED:
                return seen
            await asyncio.sleep(0.05)
