"""The HTTP server: /metrics, health, the status page and the JSON API.

Everything is answered from memory in the event loop, in milliseconds at a time, so no request can
hold up a probe or wait for an engine.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, TypedDict

import structlog
from aiohttp import web

from exporter.errors import ExporterError
from exporter.web import api, http_sd, report_picture, runbooks
from exporter.web.access.authentication import BasicAuth
from exporter.web.connections import Connections, Limits
from exporter.web.metrics_page import MetricsPage
from exporter.web.page.views.links import PageLinks, PageQuery
from exporter.web.parameters import BadQueryError, asked_target, some_of, whole_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ssl import SSLContext

    from exporter.clock import Clock
    from exporter.metrics.history import History
    from exporter.metrics.sink import Metrics, Registry
    from exporter.web.access.configuration import WebConfig
    from exporter.web.connections import Connection
    from exporter.web.report_picture import Draw

    PageMaker = Callable[[Metrics, History, float, PageLinks, PageQuery], web.Response]
    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.stdlib.get_logger(__name__)

LIMITS = Limits()
_BACKLOG = 128  # connections that wait to be taken in

_HEADERS_OF_ERRORS = ("Allow", "Retry-After", "WWW-Authenticate")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def create_app(
    *,
    registry: Registry,
    metrics: Metrics,
    history: History,
    clock: Clock,
    draw: Draw | None = None,
    grafana_url: str | None = None,
    http_sd_address: str | None = None,
) -> web.Application:
    """All routes over what `metrics` and `history` know; `registry` is what /metrics shows.

    `draw` makes a picture of a session; without it there is no /report.png. `http_sd_address` is
    where Prometheus is told to find the page of each target.
    """
    app = web.Application(middlewares=[_errors])
    app.on_response_prepare.append(_set_headers)
    exposition = MetricsPage(registry, metrics)
    app.on_cleanup.append(lambda _: exposition.close())
    links = PageLinks(grafana_url, draw is not None)

    async def healthy(_request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    readiness = Readiness(metrics)

    async def ready(_request: web.Request) -> web.Response:
        return readiness.answer()

    async def status_page(request: web.Request) -> web.Response:
        # What it takes to make a page is loaded for the first one, and beside the event loop.
        respond, parts = await asyncio.to_thread(_page_maker)
        try:
            only = asked_target(request, metrics.targets)
            part = whole_number(request, "page", parts(len(metrics.targets))) or 1
        except BadQueryError:
            raise web.HTTPNotFound from None
        return respond(metrics, history, clock.time(), links, PageQuery(only, part))

    app.router.add_get("/metrics", exposition.answer)
    app.router.add_get("/-/healthy", healthy)
    app.router.add_get("/-/ready", ready)
    app.router.add_get("/", status_page)
    app.router.add_routes(api.routes(metrics, history))
    app.router.add_routes(http_sd.routes(metrics, http_sd_address))
    if draw is not None:
        app.router.add_routes(report_picture.routes(metrics, history, draw))
    app.router.add_routes(runbooks.routes())
    return app


def _page_maker() -> tuple[PageMaker, Callable[[int], int]]:
    from exporter.web.page import page  # noqa: PLC0415 - see where it is called
    from exporter.web.page.views import targets  # noqa: PLC0415 - see where it is called

    page.prepare()
    return page.response, targets.parts


class Readiness:
    """Ready once every target has been looked at, whatever was found; and from then on.

    Looked at: its engine was scraped or a session with it ended, well or not; and where the
    target has a container, that was inspected. An engine that is down keeps nobody waiting: that
    is what this program is there to say. Nor does a target that is found later: while it is new
    the pages of all others must stay in reach.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ready = False

    def answer(self) -> web.Response:
        """200, or 503 with the names of those that are waited for."""
        waiting = []
        if not self._ready:
            waiting = [name for name, each in self._metrics.targets.items() if not each.looked_at]
        if waiting:
            return web.Response(status=503, text=f"not looked at yet: {some_of(waiting)}\n")
        self._ready = True
        return web.Response(text="ready\n")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as answer:
        return _short(request, answer.status, answer.reason, dict(answer.headers))
    except Exception:
        log.exception("http.failed", method=request.method, path=request.path)
        return _short(request, 500, "Internal Server Error", {})


def _short(
    request: web.Request, status: int, words: str, headers: dict[str, str]
) -> web.StreamResponse:
    kept = {name: headers[name] for name in _HEADERS_OF_ERRORS if name in headers}
    if request.path.startswith("/api/"):
        return web.json_response({"error": words}, status=status, headers=kept)
    return web.Response(text=f"{status} {words}\n", status=status, headers=kept)


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # aiohttp names itself, Python and both versions here, which is nobody's business.
    response.headers.popall("Server", None)


class _TlsArguments(TypedDict, total=False):
    ssl: SSLContext
    ssl_handshake_timeout: float
    ssl_shutdown_timeout: float


class HttpServer:
    """A listening socket in front of an application, with bounds on what one client may take.

    With a web configuration also with TLS, passwords and headers as it says.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        web_config: WebConfig | None = None,
        limits: Limits = LIMITS,
        grace_seconds: float = 1.0,
    ) -> None:
        self._connections = Connections(limits)
        self._web = web_config
        self._auth = BasicAuth({} if web_config is None else web_config.users)
        app.middlewares.insert(0, self._connections.middleware)
        app.middlewares.append(self._auth.middleware)
        app.on_response_prepare.append(self._add_headers)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=grace_seconds)
        self._listeners: list[asyncio.Server] = []

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. ExporterError where that is not possible."""
        await self._runner.setup()
        try:
            self._listeners = [
                await asyncio.get_running_loop().create_server(
                    self._new_connection, host, port, backlog=_BACKLOG, **self._tls()
                )
            ]
        except OSError as exc:
            await self.stop()
            raise ExporterError(_bind_failure(host, port, exc)) from exc

    async def apply(self, web_config: WebConfig) -> None:
        """From now on this web configuration; connections that stand keep their certificate.

        Raises OSError where that cannot be, and then nothing has changed.
        """
        before, self._web = self._web, web_config
        # New listeners on the same sockets: nobody who connects meanwhile is refused.
        old, new = self._listeners, list[asyncio.Server]()
        try:
            for each in [each for server in old for each in server.sockets]:
                new.append(await self._second_listener(each.fileno()))
        except OSError:  # then those that were made must be closed again
            self._web, old, new = before, new, old
            raise
        else:
            self._auth.replace(web_config.users)
        finally:
            self._listeners = new
            for server in old:
                server.close()

    async def _second_listener(self, descriptor: int) -> asyncio.Server:
        twin = socket.socket(fileno=os.dup(descriptor))
        return await asyncio.get_running_loop().create_server(
            self._new_connection, sock=twin, backlog=_BACKLOG, **self._tls()
        )

    def _tls(self) -> _TlsArguments:
        if self._web is None or self._web.tls is None:
            return {}
        seconds = self._connections.limits.handshake_seconds
        return {
            "ssl": self._web.tls,
            "ssl_handshake_timeout": seconds,
            "ssl_shutdown_timeout": seconds,
        }

    def _new_connection(self) -> Connection:
        server = self._runner.server
        if server is None:
            raise ConnectionAbortedError("the server has stopped")
        return self._connections.new(server)

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._web is not None:
            response.headers.update(self._web.headers)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listeners[0].sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the socket and every connection, within the grace."""
        for each in self._listeners:
            each.close()
        self._auth.close()
        await self._runner.cleanup()


def _bind_failure(host: str, port: int, exc: OSError) -> str:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    advice = {
        errno.EADDRINUSE: "another program has that port, perhaps another exporter. "
        "Stop it, or set `listen` to another port",
        errno.EACCES: "this user may not have that port. Set `listen` to a port above 1023",
        errno.EADDRNOTAVAIL: "this machine has no such address. Set `listen` to one of its own",
    }.get(exc.errno or 0, exc.strerror or str(exc))
    return f"cannot listen on {place}: {advice}."
