"""/api/v1/http-sd: a list of the pages of all targets, in the format of Prometheus's http_sd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from exporter.web.parameters import BadRequestError, allow_only

if TYPE_CHECKING:
    from exporter.metrics.store import Metrics
    from exporter.web.api_shape import HttpSdGroupJson

_NO_HOST = (
    "the request has no header Host, so the address of this exporter is not known: "
    "set metrics.http_sd_address"
)


def routes(metrics: Metrics, address: str | None) -> list[web.RouteDef]:
    """`address` is the host and port of the pages; None takes them from the header Host."""

    async def listing(request: web.Request) -> web.Response:
        allow_only(request)
        # Not request.host: without the header, that is the local address, which Prometheus cannot
        # reach through a proxy or a published port.
        host = address or request.headers.get("Host")
        if not host:
            raise BadRequestError(_NO_HOST)
        return web.json_response([_group(host, name) for name in metrics.targets])

    return [web.get("/api/v1/http-sd", listing)]


def _group(address: str, target: str) -> HttpSdGroupJson:
    """The page of one target. Its `up` and its series have the label `target`, as on the whole
    page.
    """
    return {
        "targets": [address],
        "labels": {
            "__metrics_path__": "/metrics",
            "__param_target": target,
            "target": target,
        },
    }
