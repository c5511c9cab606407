"""Metrics that a test makes up, served as an exporter's /metrics."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import TYPE_CHECKING

from samples_page import page_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.metrics.store import Metrics


class _Server(http.server.ThreadingHTTPServer):
    def __init__(self, metrics: Metrics, before: Callable[[], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.metrics, self.before = metrics, before


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.before()
        page = page_bytes(self.server.metrics)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


@contextlib.contextmanager
def serving(metrics: Metrics, before: Callable[[], None]) -> Iterator[int]:
    """Yields the port. `before` is called before each answer."""
    server = _Server(metrics, before)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
