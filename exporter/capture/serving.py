"""The server of the recording proxy."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from exporter.capture.proxy import MOST_HEADER_BYTES
from exporter.errors import ExporterError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.capture.proxy import Proxy

_UNHEARD = logging.getLogger("aiohttp.server.capture")
_UNHEARD.disabled = True
"""aiohttp logs a request that is no HTTP with its first bytes. They may be of a key."""
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
        max_line_size=MOST_HEADER_BYTES,
        max_field_size=MOST_HEADER_BYTES,
        logger=_UNHEARD,
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
