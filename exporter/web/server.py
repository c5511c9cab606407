"""The HTTP server: /metrics, health, the status page and the JSON API.

Every answer comes from memory and never waits for an engine. It is made in the event loop in steps
of a few milliseconds, so that no request delays a probe.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from exporter.errors import ExporterError
from exporter.metrics.state.condition import condition, not_serving
from exporter.web import api, http_sd, report_picture, runbooks
from exporter.web.access.authentication import BasicAuth
from exporter.web.connections import Connection, Connections, Limits
from exporter.web.metrics_page import MetricsPage
from exporter.web.page import page
from exporter.web.page.views.records import PageLinks
from exporter.web.parameters import BadRequestError, asked_target, some_of

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from exporter.clock import Clock
    from exporter.metrics.history import History
    from exporter.metrics.store import Metrics
    from exporter.web.access.configuration import WebConfig
    from exporter.web.report_picture import Draw

log = structlog.stdlib.get_logger(__name__)

LIMITS = Limits()
_BACKLOG = 128  # connections that wait to be accepted

_HEADERS_OF_ERRORS = ("Allow", "Retry-After", "WWW-Authenticate")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def create_app(
    *,
    metrics: Metrics,
    history: History,
    clock: Clock,
    draw: Draw | None = None,
    offers_pictures: bool = True,
    grafana_url: str | None = None,
    http_sd_address: str | None = None,
) -> web.Application:
    """All routes. They show the contents of `metrics` and `history`.

    `draw` makes the picture of a session; without it there is no /report.png. The page links to it
    if `offers_pictures`. `http_sd_address` is the host and port that /api/v1/http-sd gives to
    Prometheus for the page of each target.
    """
    app = web.Application(middlewares=[_errors])
    app.on_response_prepare.append(_set_headers)
    metrics_page = MetricsPage(metrics)
    app.on_cleanup.append(lambda _: metrics_page.close())
    links = PageLinks(grafana_url, pictures=draw is not None and offers_pictures)

    app.router.add_get("/metrics", metrics_page.answer)
    app.router.add_get("/-/healthy", Health(metrics).answer)
    app.router.add_get("/-/ready", Readiness(metrics).answer)
    app.router.add_routes(page.routes(metrics, history, clock, links))
    app.router.add_routes(api.routes(metrics, history))
    app.router.add_routes(http_sd.routes(metrics, http_sd_address))
    if draw is not None:
        app.router.add_routes(report_picture.routes(metrics, history, draw))
    app.router.add_routes(runbooks.routes())
    return app


class Health:
    """Whether the exporter answers, and with `?target=NAME` whether that engine serves requests."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def answer(self, request: web.Request) -> web.Response:
        """200 with the target's condition, or 503 with the reason why it serves nothing."""
        name = asked_target(request, self._metrics.targets)
        if name is None:
            return web.Response(text="healthy\n")
        state = self._metrics.targets[name]
        reason = not_serving(state)
        if reason is not None:
            return web.Response(status=503, text=f"{name}: {reason}\n")
        return web.Response(text=f"{name}: {condition(state)}\n")


class Readiness:
    """Ready after the first look at every target, whatever the result, and always after that.

    The first look: a scrape or a session has ended, with success or not, and a container of the
    target was inspected. An engine that is down does not delay readiness, because reporting it is
    the exporter's task. A target that is discovered later does not either: the pages of the other
    targets must stay reachable meanwhile.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ready = False

    async def answer(self, _request: web.Request) -> web.Response:
        """200, or 503 with the names of the targets that have not been looked at."""
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
    except BadRequestError as error:
        return _short(request, 400, str(error), {})
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
    # aiohttp puts its own version and Python's here: do not publish them.
    response.headers.popall("Server", None)


class HttpServer:
    """A listening socket in front of an application, with limits for each client.

    `web_config` adds TLS, passwords and headers.
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
        """Listen; port 0 takes a free port. Raises `ExporterError` where that is not possible."""
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
        """Put this web configuration into force. Open connections keep their certificate.

        Raises OSError where the system refuses, and then nothing has changed.
        """
        before, self._web = self._web, web_config
        # New listeners on the same sockets, so that no new connection is refused meanwhile.
        old, new = self._listeners, list[asyncio.Server]()
        try:
            for each in [each for server in old for each in server.sockets]:
                new.append(await self._second_listener(each.fileno()))
        except OSError:  # close the new listeners instead of the old ones
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

    def _tls(self) -> dict[str, Any]:
        """Arguments of `create_server`."""
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
        return Connection(self._connections, server)

    async def _add_headers(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._web is not None:
            response.headers.update(self._web.headers)

    @property
    def port(self) -> int:
        """The port of the listening socket."""
        return int(self._listeners[0].sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the socket and, within the grace period, every connection."""
        for each in self._listeners:
            each.close()
        self._auth.close()
        await self._runner.cleanup()


def _bind_failure(host: str, port: int, exc: OSError) -> str:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    advice = {
        errno.EADDRINUSE: "another program uses that port, perhaps another exporter. "
        "Stop it, or set `listen` to another port",
        errno.EACCES: "this user may not use that port. Set `listen` to a port above 1023",
        errno.EADDRNOTAVAIL: "this machine does not have that address. "
        "Set `listen` to one of its addresses",
    }.get(exc.errno or 0, exc.strerror or str(exc))
    return f"cannot listen on {place}: {advice}."
