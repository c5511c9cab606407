"""What the committed dashboards say: their panels, their queries, the names in them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grafana.build import DASHBOARDS_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(DASHBOARDS_FOLDER.glob("*.json"))
}


@dataclass(frozen=True)
class Question:
    """One query of a dashboard and where it stands."""

    dashboard: str
    place: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard}, {self.place}: {self.expr}"


def panels(dashboard: str) -> list[dict[str, Any]]:
    """Every panel but the headings."""
    return [panel for panel in MODELS[dashboard]["panels"] if panel["type"] != "row"]


def panel(dashboard: str, title: str) -> dict[str, Any]:
    (found,) = (panel for panel in panels(dashboard) if panel["title"] == title)
    return found


def panel_queries(dashboard: str) -> list[Question]:
    return [
        Question(dashboard, f"{panel['title']} {target['refId']}", target["expr"])
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def every_query() -> Iterator[Question]:
    """The queries of panels, annotations and variables."""
    for name, model in MODELS.items():
        yield from panel_queries(name)
        for annotation in model["annotations"]["list"]:
            yield Question(name, annotation["name"], annotation["expr"])
        for variable in model["templating"]["list"]:
            if variable["type"] == "query":
                yield Question(name, f"${variable['name']}", variable["query"])


def strings(part: Any) -> Iterator[str]:
    """Every text anywhere in a piece of JSON."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from strings(value)
    elif isinstance(part, list):
        for value in part:
            yield from strings(value)


def metric_names(expr: str) -> set[str]:
    """The exporter's and the recorded series, and the two that Prometheus writes itself."""
    names = r"\b(?:(?:target\w*:)?vllm[a-z_]*_[a-z_]+(?::\w+)?|up|ALERTS)\b"
    return set(re.findall(names, _without_texts(expr)))


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric and the labels that it is chosen by."""
    for name, braces in re.findall(r"\b([\w:]+)\{([^}]*)\}", expr):
        yield name, set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", _without_texts(braces)))


def groupings(expr: str) -> set[str]:
    """Every label that something is summed or matched by."""
    lists = re.findall(r"\b(?:by|on|ignoring|group_left)\s*\(([^)]*)\)", expr)
    return {label.strip() for labels in lists for label in labels.split(",") if label.strip()}


def _without_texts(expr: str) -> str:
    return re.sub(r'"[^"]*"', '""', expr)
