"""A receiver of OTLP over HTTP, written with the protocol's own protobufs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PATIENCE = 30.0


@dataclass
class Receiver:
    """Keeps what it accepted. `status` is what it answers, `delay` for how long it waits; `refused`
    has the bodies that it answered with another status than 200.
    """

    status: int = 200
    delay: float = 0.0
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    body: bytes | None = None  # in place of its own answer
    rejected: int = 0  # data points or spans of each request
    refused: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: int = 0
    url: str = ""

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/metrics", self._metrics)
        app.router.add_post("/v1/traces", self._traces)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        wanted = ExportMetricsServiceRequest, ExportMetricsServiceResponse, self.metrics
        return await self._answer(request, *wanted)

    async def _traces(self, request: web.Request) -> web.Response:
        wanted = ExportTraceServiceRequest, ExportTraceServiceResponse, self.traces
        return await self._answer(request, *wanted)

    async def _answer(self, request, kind, answer, kept) -> web.Response:
        self.asked += 1
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        body = await request.read()  # aiohttp has undone Content-Encoding
        await asyncio.sleep(self.delay)
        if self.status != 200:
            self.refused.append(body)
            return web.Response(status=self.status)
        kept.append(kind.FromString(body))
        told = answer()
        if self.rejected:
            what = "data_points" if kept is self.metrics else "spans"
            setattr(told.partial_success, f"rejected_{what}", self.rejected)
            told.partial_success.error_message = "too old"
        return web.Response(
            body=self.body or told.SerializeToString(), content_type="application/x-protobuf"
        )

    async def until(self, what: str, true) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not true():
            assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serving(tls=None):
    """A receiver that listens, with TLS if there is a context."""
    made = Receiver()
    runner = web.AppRunner(made.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    made.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


@pytest.fixture
async def receiver():
    async with serving() as made:
        yield made


def attributes(message) -> dict[str, object]:
    """The attributes of a resource, a point or a span."""
    found = {}
    for each in message.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        if kind == "array_value":
            value = [getattr(one, one.WhichOneof("value")) for one in value.values]
        found[each.key] = value
    return found


def samples(request: ExportMetricsServiceRequest) -> dict[tuple, float]:
    """The points as samples of a page: histograms as cumulative buckets, sum and count."""
    found: dict[tuple, float] = {}

    def put(name: str, labels: dict, value: float) -> None:
        key = (name, tuple(sorted(labels.items())))
        assert key not in found, f"twice: {key}"
        found[key] = value

    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    _put_point(metric, point, put)
    return found


def _put_point(metric, point, put) -> None:
    labels = attributes(point)
    if metric.WhichOneof("data") != "histogram":
        put(metric.name, labels, point.as_double)
        return
    total = 0
    bounds = [*point.explicit_bounds, float("inf")]
    for bound, count in zip(bounds, point.bucket_counts, strict=True):
        total += count
        put(f"{metric.name}_bucket", {**labels, "le": bound}, total)
    put(f"{metric.name}_count", labels, point.count)
    put(f"{metric.name}_sum", labels, point.sum)


def spans(receiver: Receiver) -> list:
    """All spans that arrived."""
    return [
        span
        for request in receiver.traces
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
