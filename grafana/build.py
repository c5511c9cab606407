"""Writes the dashboards as JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardLinkPlacement

from grafana import engine, fleet, overview, session

if TYPE_CHECKING:
    from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARDS_FOLDER: Final = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, Dashboard]:
    """Every dashboard, by its file name without `.json`."""
    return {
        "overview": overview.build(),
        "session": session.build(),
        "engine": engine.build(),
        "fleet": fleet.build(),
    }


def render(dashboard: Dashboard) -> str:
    """The dashboard in Grafana's classic JSON; the same dashboard gives the same text."""
    model: dict[str, Any] = without_placement(json.loads(JSONEncoder().encode(dashboard)))
    for number, panel in enumerate(model["panels"], start=1):
        panel["id"] = number
    return json.dumps(model, indent=2, sort_keys=True) + "\n"


def without_placement(part: Any) -> Any:
    """The same JSON without the SDK's placement of links and annotations.

    The SDK knows only a menu that must be opened. Without it they are above the panels.
    """
    if isinstance(part, list):
        return [without_placement(value) for value in part]
    if isinstance(part, dict):
        return {
            key: without_placement(value)
            for key, value in part.items()
            if (key, value) != ("placement", DashboardLinkPlacement.IN_CONTROLS_MENU)
        }
    return part


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards().items():
        (folder / f"{name}.json").write_text(render(dashboard), encoding="utf-8")
