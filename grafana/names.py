"""What dashboards, provisioning and documentation have to agree on."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

TAG: Final = "vllm-cache"
DATASOURCE_UID: Final = "vllm-prometheus"

# Where a reader's browser finds the runbooks: the exporter of compose.yaml serves them. The only
# place that says so for dashboards; alerts have an external label of Prometheus (docs/compose.md).
RUNBOOKS_URL: Final = "http://127.0.0.1:9477/runbooks"


class Uid(StrEnum):
    """The dashboards' addresses. They are in people's bookmarks: they do not change."""

    OVERVIEW = "vllm-cache-overview"
    SESSION = "vllm-cache-session"
    ENGINE = "vllm-cache-engine"
    FLEET = "vllm-cache-fleet"


def dashboard_url(uid: Uid, target: str) -> str:
    """A link from a row or series to another dashboard: same time, the row's target."""
    return f"/d/{uid}?var-target={target}&${{datasource:queryparam}}&${{__url_time_range}}"
