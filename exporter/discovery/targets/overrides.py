"""Labels of a container or a pod that change its settings, and the mistakes in them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from exporter.config import LABEL_PREFIX, ContainerLabels, PodLabels, Target, words_of

if TYPE_CHECKING:
    from collections.abc import Mapping

LabelsT = TypeVar("LabelsT", ContainerLabels, PodLabels)
_PREFIX = f"{LABEL_PREFIX}."
_SERIES = "labels."


class NotATarget(Exception):  # noqa: N818 - it never leaves this folder
    """The text says why something that was found is no target."""


def overrides_in(labels: Mapping[str, str], kind: type[LabelsT], noun: str) -> LabelsT:
    """What the labels say below LABEL_PREFIX. `noun` says in a mistake what they are.

    Those below `labels.` are labels of its series. Raises `NotATarget`.
    """
    said = {
        label.removeprefix(_PREFIX): value
        for label, value in labels.items()
        if label.startswith(_PREFIX)
    }
    given: dict[str, Any] = {k: v for k, v in said.items() if not k.startswith(_SERIES)}
    own = {k.removeprefix(_SERIES): v for k, v in said.items() if k.startswith(_SERIES)}
    if own:
        given["labels"] = own
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise NotATarget(_in_words(error, f"{noun} {_PREFIX}{{key}}")) from None


def said_name(labels: Mapping[str, str], default: str) -> str:
    """The name that the labels say, also if others of them have mistakes."""
    return labels.get(f"{_PREFIX}name", default)


def checked_target(facts: Mapping[str, Any]) -> Target:
    """The target with these settings. Raises `NotATarget`."""
    try:
        return Target.model_validate(facts)
    except ValidationError as error:
        raise NotATarget(_in_words(error, "the target's {key}")) from None


def _in_words(error: ValidationError, what: str) -> str:
    lines = []
    for each in error.errors(include_url=False):
        unknown = each["type"] == "extra_forbidden"
        key = ".".join(map(str, each["loc"]))
        lines.append(
            f"{what.format(key=key)}: {'there is no such label' if unknown else words_of(each)}"
        )
    return "; ".join(lines)
