"""Where else the status page can lead: a record of its own, known before a page is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What else there is to link to. `pictures`: whether /report.png is served."""

    grafana_url: str | None = None
    pictures: bool = False
