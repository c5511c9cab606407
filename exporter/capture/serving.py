"""The server of the recording proxy."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from exporter.errors import ExporterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.capture.proxy import Proxy

_CLOSING_SECONDS = 2.0
"""How long answers that are not finished may go on when the proxy ends."""


@asynccontextmanager
async def serving(proxy: Proxy, host: str, port: int) -> AsyncIterator[int]:
    """Serve the proxy, and give the port. Raises `ExporterError` if the address is taken.

    A client that goes away ends its request to the engine at once.
    """
    runner = web.AppRunner(
        proxy.app(),
        access_log=None,
        handler_cancellation=True,
        auto_decompress=False,
        shutdown_timeout=_CLOSING_SECONDS,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ExporterError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; --listen names "
                "another address"
            ) from error
        address: Any = runner.addresses[0]
        yield address[1]
    finally:
        await runner.cleanup()
