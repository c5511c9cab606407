"""Why an engine's /metrics could not be read: a closed set, for the label `reason`."""

from __future__ import annotations

from enum import StrEnum

from exporter.model.failure import FailureReason


class ScrapeReason(StrEnum):
    """The `reason` of a `ScrapeFailure`."""

    CONNECTION_REFUSED = "connection_refused"
    CONNECT_FAILED = "connect_failed"  # name resolution, TLS, no route
    CONNECT_TIMEOUT = "connect_timeout"
    TIMEOUT = "timeout"  # no whole page in time
    STREAM_CUT = "stream_cut"  # the connection ended within the page
    UNAUTHORIZED = "unauthorized"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"  # 429 or 503
    PROTOCOL = "protocol"  # any other answer that is not a page
    NOT_PROMETHEUS = "not_prometheus"  # a page, but not one of Prometheus text
    NO_VLLM_METRICS = "no_vllm_metrics"
    SEVERAL_ENGINES = "several_engines"  # several processes answer at this URL in turn
    NO_DESCRIPTORS = "no_descriptors"  # the exporter's own, not the engine's
    INTERNAL = "internal"  # an unexpected exception; the log has the trace


_SAME = {str(reason) for reason in ScrapeReason}


def scrape_reason(reason: str) -> ScrapeReason:
    """The reason of this set for that of an `EngineUnavailableError`."""
    if reason == FailureReason.TURN_TIMEOUT:
        return ScrapeReason.TIMEOUT
    return ScrapeReason(reason) if reason in _SAME else ScrapeReason.PROTOCOL
