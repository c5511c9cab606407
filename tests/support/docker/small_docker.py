"""As much of Docker's API as watching one container takes, on a unix socket, over aiohttp."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp.typedefs import Handler

NAME = "vllm-engine"
INSPECT = {
    "Id": "c0ffee" * 10 + "c0ff",
    "Name": f"/{NAME}",
    "Image": "sha256:" + "1" * 64,
    "RestartCount": 0,
    "State": {
        "Status": "running",
        "ExitCode": 0,
        "OOMKilled": False,
        "Error": "",
        "StartedAt": "2026-01-01T00:00:00Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
    },
    "Config": {"Image": "vllm/vllm-openai:v0.32.0", "Labels": {}, "Tty": False},
    "NetworkSettings": {"Ports": {}},
}


class PendingAction:
    """How often each path was asked for, its version and the container's id left out."""

    def __init__(self) -> None:
        self.paths = Counter[str]()
        self.open_events = 0

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        kind = request.path.rpartition("/")[2]
        self.paths[kind] += 1
        self.open_events += kind == "events"
        try:
            return await handler(request)
        finally:
            self.open_events -= kind == "events"


@contextlib.asynccontextmanager
async def small_docker(socket: Path) -> AsyncIterator[PendingAction]:
    asked = PendingAction()
    app = web.Application(middlewares=[asked.middleware])
    app.router.add_get("/{version}/version", _version)
    app.router.add_get("/version", _version)
    app.router.add_get("/{version}/events", _silence)
    app.router.add_get("/{version}/containers/{id}/json", _inspect)
    app.router.add_get("/{version}/containers/{id}/logs", _log)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield asked
    finally:
        await runner.cleanup()


async def _version(_request: web.Request) -> web.Response:
    return web.json_response({"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "26.1.0"})


async def _inspect(request: web.Request) -> web.Response:
    """A container is there by any name; that of one that hangs is `stuck`."""
    if request.match_info["id"] == "stuck":
        await asyncio.Event().wait()
    return web.json_response(INSPECT)


async def _log(request: web.Request) -> web.StreamResponse:
    """It has written nothing; the end of the log of `slow` takes for ever to read."""
    if "follow" in request.query or request.match_info["id"] == "slow":
        return await _silence(request)
    return web.Response()


async def _silence(request: web.Request) -> web.StreamResponse:
    """An endless answer in which nothing happens."""
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.Event().wait()
    return response
