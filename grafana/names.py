"""What dashboards, provisioning and documentation have to agree on."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

TAG: Final = "vllm-cache"
DATASOURCE_UID: Final = "vllm-prometheus"

# Where the runbooks can be read. The only place: a fork or a mirror changes this line.
RUNBOOKS_URL: Final = (
    "https://github.com/vllm-cache-exporter/vllm-cache-exporter/blob/main/docs/runbooks"
)


class Uid(StrEnum):
    """The dashboards' addresses. They are in people's bookmarks: they do not change."""

    OVERVIEW = "vllm-cache-overview"
    SESSION = "vllm-cache-session"
    ENGINE = "vllm-cache-engine"
    FLEET = "vllm-cache-fleet"


def dashboard_url(uid: Uid, target: str) -> str:
    """A link from a row or series to another dashboard: same time, the row's target."""
    return f"/d/{uid}?var-target={target}&${{datasource:queryparam}}&${{__url_time_range}}"
