"""/api/v1/http-sd: the page of each target, as Prometheus's http_sd reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from exporter.web.parameters import BadQueryError, only

if TYPE_CHECKING:
    from exporter.metrics.sink import Metrics
    from exporter.web.api_shape import HttpSdGroupJson

_NO_HOST = (
    "the request has no header Host, so where this exporter is reached is not known: "
    "set metrics.http_sd_address"
)


def routes(metrics: Metrics, address: str | None) -> list[web.RouteDef]:
    """`address` is the host and port of the pages; without it that of the request."""

    async def listing(request: web.Request) -> web.Response:
        try:
            only(request)
        except BadQueryError as error:
            return web.json_response({"error": str(error)}, status=400)
        # Not request.host: without the header that is this end's own address, behind a proxy or a
        # port that is published one that Prometheus cannot reach.
        reached = address or request.headers.get("Host")
        if not reached:
            return web.json_response({"error": _NO_HOST}, status=400)
        return web.json_response([_group(reached, name) for name in metrics.targets])

    return [web.get("/api/v1/http-sd", listing)]


def _group(address: str, target: str) -> HttpSdGroupJson:
    """A page of its own, whose `up` and series have the label `target`, as on the whole page."""
    return {
        "targets": [address],
        "labels": {
            "__metrics_path__": "/metrics",
            "__param_target": target,
            "target": target,
        },
    }
