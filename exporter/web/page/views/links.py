"""Links from the status page to other places, and the query of a request for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageLinks:
    """`grafana_url` is None without Grafana. `pictures`: whether /report.png is served."""

    grafana_url: str | None = None
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which targets to show: `only` one of them, or a `part` of a fleet, counted from 1."""

    only: str | None = None
    part: int = 1


ALL = PageQuery()
