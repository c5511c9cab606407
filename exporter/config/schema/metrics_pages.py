"""The settings of the pages that Prometheus scrapes."""

import re
from typing import Annotated

from pydantic import AfterValidator

from exporter.config.schema.values import CountOrZero, Section, mistake


def _host_and_port(value: str) -> str:
    if re.fullmatch(r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", value) is None:
        raise mistake('must be a host, with a port or without, such as "exporter.example:9477"')
    return value


class MetricsSettings(Section):
    """The pages that Prometheus scrapes."""

    whole_page_targets: CountOrZero = 100
    """With more targets than this, `/metrics` shows only the exporter's own metrics, and each
    target's metrics are at `/metrics?target=NAME`. A hundred targets are 30,000 series and 3 MB,
    made in 45 ms, which is as much as one scrape should be. 0 always uses per-target pages; use it
    with `/api/v1/http-sd`, so that no series is scraped twice."""

    http_sd_address: Annotated[str, AfterValidator(_host_and_port)] | None = None
    """The host and port at which Prometheus reaches these pages, for the answers of
    `/api/v1/http-sd`. By default the address of the request."""
