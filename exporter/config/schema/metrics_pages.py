"""The settings of what Prometheus reads."""

import re
from typing import Annotated

from pydantic import AfterValidator

from exporter.config.schema.values import CountOrZero, Section, mistake


def _host_and_port(value: str) -> str:
    if re.fullmatch(r"([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?", value) is None:
        raise mistake('must be a host, with a port or without, as "exporter.example:9477"')
    return value


class MetricsSettings(Section):
    """The pages that Prometheus reads."""

    whole_page_targets: CountOrZero = 100
    """Above so many targets `/metrics` has the exporter's own metrics alone, and each target's
    stand at `/metrics?target=NAME`. A hundred targets are 30,000 series and 3 MB, made in 60 ms: as
    much as one scrape should be. With 0 it is so for any number, as who reads
    `/api/v1/http-sd` wants it: no series is then read twice."""

    http_sd_address: Annotated[str, AfterValidator(_host_and_port)] | None = None
    """Host and port at which Prometheus reaches these pages, which `/api/v1/http-sd` tells it. What
    it asked for that list at, if not set."""
