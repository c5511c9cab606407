"""Names that dashboards, provisioning and documentation share."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

TAG: Final = "vllm-cache"
DATASOURCE_UID: Final = "vllm-prometheus"

# The address of the runbooks in a reader's browser: the exporter of compose.yaml serves them. Only
# dashboards use it; alerts use an external label of Prometheus (docs/compose.md).
RUNBOOKS_URL: Final = "http://127.0.0.1:9477/runbooks"


class Uid(StrEnum):
    """The dashboards' addresses. They never change, because people have bookmarks."""

    OVERVIEW = "vllm-cache-overview"
    SESSION = "vllm-cache-session"
    ENGINE = "vllm-cache-engine"
    FLEET = "vllm-cache-fleet"


def dashboard_url(uid: Uid, target: str) -> str:
    """A link from a row or series to another dashboard: same time, the row's target."""
    return f"/d/{uid}?var-target={target}&${{datasource:queryparam}}&${{__url_time_range}}"
