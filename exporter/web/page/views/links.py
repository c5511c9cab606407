"""Where the status page leads and what is asked of it: records that are known before it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PageLinks:
    """What else there is to link to. `pictures`: whether /report.png is served."""

    grafana_url: str | None = None
    pictures: bool = False


@dataclass(frozen=True, slots=True)
class PageQuery:
    """What is wanted of the status page: `only` one target, or a `part` of a fleet, from 1 on."""

    only: str | None = None
    part: int = 1


ALL = PageQuery()
