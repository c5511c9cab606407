"""Names that dashboards, provisioning and documentation share."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from mixin.settings import chosen

TAG: Final = "vllm-cache"
SEVERAL_TARGETS: Final = "vllm-cache-targets"
"""The tag of dashboards that can show several targets at once."""
DATASOURCE_UID: Final = "vllm-prometheus"

# The address of the exporter in a reader's browser: that of compose.yaml, until the reader types
# another one. Only dashboards use it; alerts use an external label of Prometheus (docs/compose.md).
EXPORTER_URL: Final = chosen().links.exporter
RUNBOOKS_URL: Final = "${exporter}/runbooks"


_CARRIED: Final = "&".join(
    f"${{{name}:queryparam}}" for name in ("datasource", "window", "exporter", "filters")
)


class Uid(StrEnum):
    """The dashboards' addresses. They never change, because people have bookmarks."""

    OVERVIEW = "vllm-cache-overview"
    SESSION = "vllm-cache-session"
    ENGINE = "vllm-cache-engine"
    FLEET = "vllm-cache-fleet"


def dashboard_url(uid: Uid, target: str) -> str:
    """A link from a row or series to another dashboard: same time, the row's target."""
    return f"/d/{uid}?var-target={target}&{_CARRIED}&${{__url_time_range}}"


def session_url() -> str:
    """A link to Session that leaves the target to it: it shows one, and others show several."""
    return f"/d/{Uid.SESSION}?{_CARRIED}"
