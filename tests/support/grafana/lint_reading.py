"""What the rules of the lint read in the JSON of dashboards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Boards = dict[str, dict[str, Any]]
"""The dashboards by name."""
Panel = dict[str, Any]


def panels(boards: Boards, *types: str) -> Iterator[Panel]:
    """The panels of these types, or all but the headings."""
    for model in boards.values():
        yield from of_board(model, *types)


def of_board(model: dict[str, Any], *types: str) -> Iterator[Panel]:
    for one in model["panels"]:
        if one["type"] in types or (not types and one["type"] != "row"):
            yield one


def several_targets(boards: Boards) -> Boards:
    """The dashboards that can show several targets at once."""
    return {name: model for name, model in boards.items() if shows_several(model)}


def shows_several(model: dict[str, Any]) -> bool:
    (target,) = (one for one in model["templating"]["list"] if one["name"] == "target")
    return bool(target.get("multi"))


def defaults(one: Panel) -> dict[str, Any]:
    return one["fieldConfig"]["defaults"]


def overridden(one: Panel) -> dict[str, dict[str, Any]]:
    """What is set for single fields, by their names. Without a value a default is taken away."""
    found: dict[str, dict[str, Any]] = {}
    for override in one["fieldConfig"]["overrides"]:
        set_here = {part["id"]: part.get("value") for part in override["properties"]}
        found.setdefault(override["matcher"]["options"], {}).update(set_here)
    return found


def coloured(one: Panel) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields that Grafana colours by their value, or that may be NaN, with their settings."""
    if one["type"] in {"stat", "bargauge"} or "NaN" in expressions(one):
        yield "", defaults(one)
    for field, settings in overridden(one).items() if one["type"] == "table" else ():
        if "custom.cellOptions" in settings:
            yield field, defaults(one) | settings


def steps(one: Panel, transformation: str) -> list[dict[str, Any]]:
    """The options of the panel's transformations of one kind."""
    return [
        step["options"] for step in one.get("transformations", ()) if step["id"] == transformation
    ]


def expressions(one: Panel) -> str:
    return " ; ".join(target["expr"] for target in one["targets"])


def windows(one: Panel) -> set[str]:
    return set(re.findall(r"\[(\$?\w+)\]", expressions(one)))
