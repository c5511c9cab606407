"""What is sent to an OpenTelemetry collector, and where to."""

from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from exporter.config.schema.additions import HeaderFiles, PlainHeaders
from exporter.config.schema.values import ConfigPath, PageUrl, Seconds, Section, mistake

EXTRA_PACKAGE = "opentelemetry.exporter.otlp.proto.http"
"""The module of the extra `otlp` that no other package has."""


def _check_extra(value: bool) -> bool:
    if value and not _is_there():
        raise mistake(
            "needs the OpenTelemetry SDK: pip install "
            "'opentelemetry-sdk>=1.36' 'opentelemetry-exporter-otlp-proto-http>=1.36'"
        )
    return value


def _is_there() -> bool:
    try:
        return find_spec(EXTRA_PACKAGE) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


Switch = Annotated[bool, AfterValidator(_check_extra)]


class OtlpSettings(Section):
    """Metrics and traces for an OpenTelemetry collector, over OTLP/HTTP. Both are off by default,
    and need the extra `otlp`. Where a setting is not set, the standard environment variable of the
    OpenTelemetry SDK counts.
    """

    metrics_enabled: Switch = False
    """Whether to send what `/metrics` shows, under the same names."""

    traces_enabled: Switch = False
    """Whether to send each session as a trace, with a span per turn."""

    endpoint: PageUrl | None = None
    """The base URL of the receiver; `/v1/metrics` and `/v1/traces` are added. By default that of
    OTEL_EXPORTER_OTLP_ENDPOINT and its kind, else "http://localhost:4318"."""

    headers: PlainHeaders = Field(default_factory=dict)
    """Headers of every request, by name, such as `Authorization`. Each value is a secret. Those of
    OTEL_EXPORTER_OTLP_HEADERS are sent too; these win."""

    header_files: HeaderFiles = Field(default_factory=dict)
    """Files that hold the values of headers, by the name of the header, in place of `headers`."""

    interval_seconds: Annotated[Seconds, Field(ge=1)] = 60.0
    """Seconds from one export of the metrics to the next. The default is that of OpenTelemetry.
    Traces are sent within seconds."""

    timeout_seconds: Annotated[Seconds, Field(le=300)] | None = None
    """The limit for one export with its retries, in seconds. By default
    OTEL_EXPORTER_OTLP_TIMEOUT, else 10."""

    compression: Literal["gzip", "none"] | None = None
    """How requests are compressed. By default OTEL_EXPORTER_OTLP_COMPRESSION, else `gzip`: the
    metrics of a hundred targets shrink to a twentieth."""

    ca_file: ConfigPath | None = None
    """Certificates (PEM) to trust in place of the public ones. By default those of
    OTEL_EXPORTER_OTLP_CERTIFICATE."""

    client_certificate_file: ConfigPath | None = None
    """The exporter's own certificate (PEM), if the receiver asks for one. By default that of
    OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE."""

    client_key_file: ConfigPath | None = None
    """Its private key (PEM, not encrypted). By default that of OTEL_EXPORTER_OTLP_CLIENT_KEY."""

    @property
    def enabled(self) -> bool:
        """Whether anything is sent."""
        return self.metrics_enabled or self.traces_enabled
