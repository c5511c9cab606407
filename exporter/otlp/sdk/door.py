"""The door to the OpenTelemetry SDK: its exporters, each call on a thread of its own.

The exporters block, so no call is made in the event loop. No global provider, propagator or signal
handler is set: the exporters get finished data.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has none
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import (
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import exporter
from exporter.otlp.records import Outcome
from exporter.otlp.sdk.mapping.metric_data import Moment, StartTimes, nanoseconds
from exporter.otlp.sdk.mapping.span_data import SpanMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.config import OtlpSettings
    from exporter.metrics.store import Metrics
    from exporter.otlp.records import Queued

_MOST_POINTS = 300
"""Data points of one request, about those of one target: Python writes them within a few
milliseconds, in which the event loop may wait for the interpreter."""
_PAUSE_SECONDS = 0.02
"""Between two requests, so that the writing of a fleet does not occupy the interpreter."""
_ACCEPTED = range(200, 300)
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_MENDED = frozenset({301, 302, 307, 308, 401, 403, 404})
"""Statuses after which the same data may be accepted later: by itself, or after a person mended the
settings of one side."""
_NOT_SENT = Outcome("not_sent", "the SDK could not write the request", lasting=True)
_LONGEST = 200
"""Characters of a receiver's own words in the log."""
_NAME = "vllm-cache-exporter"


class _Session(requests.Session):
    """Remembers what became of the last request, which the SDK only logs. `rejected` reads the body
    of an answer, which the SDK does not.
    """

    def __init__(self, rejected: Callable[[bytes], str]) -> None:
        super().__init__()
        self._rejected = rejected
        self.outcome = _NOT_SENT

    def request(self, *args: Any, **more: Any) -> requests.Response:
        place = _place(str(more.get("url", "")))
        # As an argument: requests prefers REQUESTS_CA_BUNDLE to a session's own certificates.
        more.setdefault("verify", self.verify)
        try:
            response = super().request(*args, **more)
        except requests.RequestException as error:
            self.outcome = Outcome("unreachable", f"{place}: {_words(error)}")
            raise
        status = response.status_code
        refused = self._refused(response) if status in _ACCEPTED else ""
        self.outcome = (
            Outcome("rejected", f"{place}: {refused}", lasting=True) if refused else Outcome()
        )
        if status not in _ACCEPTED:  # the SDK takes a redirect for a success
            words = f"{place} answered {status} {response.reason}"
            lasting = status not in _RETRIED | _MENDED
            self.outcome = Outcome(f"http_{status}", words, lasting=lasting)
        return response

    def _refused(self, response: requests.Response) -> str:
        try:
            return self._rejected(response.content)
        except DecodeError:  # of a proxy: an answer of 200 means that it was accepted
            return ""


def _rejected_points(body: bytes) -> str:
    partial = ExportMetricsServiceResponse.FromString(body).partial_success
    return _refusal(f"{partial.rejected_data_points} data points", partial.error_message)


def _rejected_spans(body: bytes) -> str:
    partial = ExportTraceServiceResponse.FromString(body).partial_success
    return _refusal(f"{partial.rejected_spans} spans", partial.error_message)


def _refusal(what: str, why: str) -> str:
    """What the receiver did not keep of a request; "" where it kept all."""
    return "" if what.startswith("0 ") else f"the receiver rejected {what}: {why[:_LONGEST]}"


def _place(url: str) -> str:
    """The URL without what could be a secret: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _words(error: requests.RequestException) -> str:
    """The innermost cause, which is short and has no URL."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None:
        cause = below
    return f"{type(cause).__name__}: {cause}"


def _arguments(
    settings: OtlpSettings, environ: Mapping[str, str], signal: str, session: requests.Session
) -> dict[str, Any]:
    """Those of the exporter of a signal. The SDK reads the standard variables for each None."""
    compression = settings.compression
    if compression is None and not (
        environ.get("OTEL_EXPORTER_OTLP_COMPRESSION")
        or environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_COMPRESSION")
    ):
        compression = "gzip"
    endpoint = settings.endpoint
    return {
        "endpoint": None if endpoint is None else f"{endpoint}/v1/{signal}",
        "headers": {name: each.get_secret_value() for name, each in settings.headers.items()},
        "timeout": settings.timeout_seconds,
        "compression": None if compression is None else Compression(compression),
        "certificate_file": _path(settings.ca_file),
        "client_certificate_file": _path(settings.client_certificate_file),
        "client_key_file": _path(settings.client_key_file),
        "session": session,
    }


def _path(file: object | None) -> str | None:
    return None if file is None else str(file)


def resource_of(instance: str) -> Resource:
    """The resource of all data. OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win."""
    own = Resource(
        {
            "service.name": _NAME,
            "service.version": exporter.__version__,
            "service.instance.id": instance,
            "host.name": socket.gethostname(),
        }
    )
    return own.merge(OTELResourceDetector().detect())


class OtlpDoor:
    """Makes the data of metrics and sessions, and sends it. `instance` names this exporter."""

    def __init__(
        self,
        settings: OtlpSettings,
        environ: Mapping[str, str],
        *,
        instance: str,
        started_time: float,
    ) -> None:
        for name in ("metric_exporter", "trace_exporter"):
            # Each failure is logged by the caller, once per outage.
            silent = logging.getLogger(f"opentelemetry.exporter.otlp.proto.http.{name}")
            silent.setLevel(logging.CRITICAL)
        self._resource = resource_of(instance)
        self._scope = InstrumentationScope(_NAME, exporter.__version__)
        self._started = nanoseconds(started_time)
        self._starts = StartTimes()
        self._spans = SpanMaker(self._resource, self._scope)
        self._metric_session = _Session(_rejected_points)
        self._trace_session = _Session(_rejected_spans)
        self._metric_exporter = OTLPMetricExporter(
            **_arguments(settings, environ, "metrics", self._metric_session)
        )
        self._span_exporter = OTLPSpanExporter(
            **_arguments(settings, environ, "traces", self._trace_session)
        )

    async def send_metrics(self, metrics: Metrics, now: float) -> Outcome:
        """Send all samples at the Unix time `now`, a few targets at a time, until one fails."""
        moment = Moment(nanoseconds(now), self._started)
        moment.add_exporter(metrics.exporter)
        self._starts.keep(metrics.targets)
        for name in tuple(metrics.targets):
            state = metrics.targets.get(name)
            if state is None:  # removed meanwhile
                continue
            moment.add_target(state, self._starts)
            if moment.points >= _MOST_POINTS:
                outcome = await self._send_moment(moment)
                if outcome.reason:
                    return outcome
                await asyncio.sleep(_PAUSE_SECONDS)
                moment = Moment(nanoseconds(now), self._started)
        return await self._send_moment(moment) if moment.points else Outcome()

    async def _send_moment(self, moment: Moment) -> Outcome:
        return await _on_thread("otlp-metrics", partial(self._send_points, moment))

    def _send_points(self, moment: Moment) -> Outcome:
        scope = ScopeMetrics(self._scope, moment.metrics(), "")
        self._metric_session.outcome = _NOT_SENT
        self._metric_exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
        return self._metric_session.outcome

    async def send_sessions(self, sessions: Sequence[Queued]) -> Outcome:
        """Send the spans of these sessions in one request."""
        return await _on_thread("otlp-traces", partial(self._send_spans, sessions))

    def _send_spans(self, sessions: Sequence[Queued]) -> Outcome:
        spans = [
            span
            for result, url, labels, seed in sessions
            for span in self._spans.spans(result, url, labels, Random(seed).getrandbits)
        ]
        self._trace_session.outcome = _NOT_SENT
        self._span_exporter.export(spans)
        return self._trace_session.outcome

    def close(self) -> None:
        """End the retries of the running exports."""
        self._metric_exporter.shutdown()
        self._span_exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK lacks its type


async def _on_thread(name: str, work: Callable[[], Outcome]) -> Outcome:
    """Run blocking work on a thread that does not keep the process alive, unlike `to_thread`'s."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Outcome] = loop.create_future()

    def deliver(outcome: Outcome) -> None:
        if not done.done():
            done.set_result(outcome)

    def run() -> None:
        try:
            outcome = work()
        except Exception as error:  # noqa: BLE001 - a door has no other errors than its own
            outcome = Outcome("internal", f"{type(error).__name__}: {error}", lasting=True)
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, outcome)

    try:
        Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:  # "can't start new thread"
        return Outcome("no_threads", str(error))
    return await done
