"""Reads the pods of the API of Kubernetes. Pure.

Only the fields that make a target are kept: a pod's JSON has up to a megabyte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from exporter.config import LABEL_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class PodPhase(StrEnum):
    """`status.phase`. A pod whose containers crash again and again is still `Running`."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"  # its node does not answer


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. `address` is empty until it has one; `overrides` are those of its labels and
    annotations that begin with LABEL_PREFIX, the annotations before the labels.
    """

    namespace: str
    name: str
    phase: PodPhase = PodPhase.UNKNOWN
    address: str = ""
    deleted: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The name that is unique in the cluster, as `kubectl` users write it."""
        return f"{self.namespace}/{self.name}"


class UnreadablePodError(ValueError):
    """An object of the API is no pod; the text says why."""


def pod_of(document: Any) -> Pod:
    """The pod of an object of the API. Raises `UnreadablePodError`."""
    meta, spec, status = (_table(document, key) for key in ("metadata", "spec", "status"))
    names = _text(meta, "namespace"), _text(meta, "name")
    if not all(names):
        raise UnreadablePodError("the object has no namespace or no name")
    labels = _table(meta, "labels") | _table(meta, "annotations")
    return Pod(
        *names,
        phase=_phase(status.get("phase")),
        address=_text(status, "podIP"),
        deleted=bool(meta.get("deletionTimestamp")),
        ports=dict(_named_ports(spec)),
        overrides={
            key: value
            for key, value in labels.items()
            if key.startswith(f"{LABEL_PREFIX}.") and isinstance(value, str)
        },
    )


def _phase(said: Any) -> PodPhase:
    return next((each for each in PodPhase if each == said), PodPhase.UNKNOWN)


def _named_ports(spec: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """The ports of all containers; of two with one name the first counts, so it comes last."""
    containers = [*_tables(spec, "containers"), *_tables(spec, "initContainers")]
    for container in reversed(containers):
        for port in reversed(_tables(container, "ports")):
            number = port.get("containerPort")
            if _text(port, "name") and isinstance(number, int):
                yield _text(port, "name"), number


def _table(parent: Any, key: str) -> dict[str, Any]:
    if not isinstance(parent, dict):
        raise UnreadablePodError("it is no object")
    found = parent.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UnreadablePodError(f"its {key} is no object")
    return found


def _tables(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _text(parent: Mapping[str, Any], key: str) -> str:
    found = parent.get(key)
    return found if isinstance(found, str) else ""
