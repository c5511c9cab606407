"""Docker's JSON as records."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from exporter.container.decide.records import (
    ContainerEvent,
    ContainerSnapshot,
    ContainerStatus,
    LogLine,
    PullProgress,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time
_LAYER_DONE = {"Pull complete", "Already exists"}
_LAYER_PENDING = {
    "Pulling fs layer",
    "Waiting",
    "Downloading",
    "Verifying Checksum",
    "Download complete",
    "Extracting",
}


def snapshot_from(inspect: Mapping[str, Any]) -> ContainerSnapshot:
    """An answer of /containers/…/json. Raises KeyError or ValueError for anything else."""
    state = inspect["State"]
    config = inspect["Config"]
    status = ContainerStatus(state["Status"])
    ended = status not in {
        ContainerStatus.CREATED,  # a refused start leaves 128 here, which no process returned
        ContainerStatus.RUNNING,
        ContainerStatus.PAUSED,
    }
    return ContainerSnapshot(
        id=inspect["Id"],
        name=inspect["Name"].removeprefix("/"),
        image=config["Image"],
        image_id=inspect["Image"],
        status=status,
        exit_code=state["ExitCode"] if ended else None,
        oom_killed=state["OOMKilled"],
        error=state.get("Error") or "",
        started_time=unix_time(state["StartedAt"]),
        finished_time=unix_time(state["FinishedAt"]),
        labels=config.get("Labels") or {},
        published_ports=_published(inspect),
        networks=_networks(inspect),
        health=(state.get("Health") or {}).get("Status"),
    )


def event_from(line: Mapping[str, Any]) -> ContainerEvent | None:
    """One line of /events; None where it is not about a container."""
    if line.get("Type") != "container":
        return None
    actor = line["Actor"]
    attributes = actor.get("Attributes") or {}
    return ContainerEvent(
        container_id=actor["ID"], name=attributes.get("name", ""), action=line["Action"]
    )


def log_line_from(line: bytes) -> LogLine:
    """One line of a log with timestamps, without its line feed. Raises ValueError without one."""
    stamp, _, text = line.partition(b" ")
    time = unix_time(stamp.decode("ascii"))
    if time is None:
        raise ValueError("a log line without a time")
    return LogLine(time, text.decode("utf-8", "replace").removesuffix("\r"))


def unix_time(stamp: str) -> float | None:
    """From RFC 3339, as Docker writes it, with up to nine decimals; None for Go's zero time."""
    return None if stamp == _NEVER else datetime.fromisoformat(stamp).timestamp()


class PullCounter:
    """Adds up the progress of a pull from Docker's lines about single layers."""

    def __init__(self) -> None:
        self._bytes: dict[str, tuple[int, int]] = {}  # layer: done, total
        self._done: set[str] = set()

    def add(self, line: Mapping[str, Any]) -> PullProgress | None:
        """Add one line; None where it is not about a layer."""
        layer, status = line.get("id"), line.get("status")
        if layer is None or status not in _LAYER_DONE | _LAYER_PENDING:
            return None
        done, total = self._bytes.get(layer, (0, 0))
        if status == "Downloading":
            detail = line.get("progressDetail") or {}
            done, total = detail.get("current", done), detail.get("total", total)
        elif status not in {"Waiting", "Pulling fs layer"}:
            done = total
        if status in _LAYER_DONE:
            self._done.add(layer)
        self._bytes[layer] = (done, total)
        return PullProgress(
            layers_done=len(self._done),
            layers=len(self._bytes),
            bytes_done=sum(done for done, _ in self._bytes.values()),
            bytes_total=sum(total for _, total in self._bytes.values()),
        )


def _published(inspect: Mapping[str, Any]) -> dict[int, tuple[str, int]]:
    """TCP ports in the container to address and port on the host; IPv4 before IPv6."""
    published: dict[int, tuple[str, int]] = {}
    for inside, bindings in (inspect["NetworkSettings"].get("Ports") or {}).items():
        port, _, protocol = inside.partition("/")
        if protocol != "tcp" or not bindings:
            continue
        first = min(bindings, key=lambda each: ":" in each["HostIp"])
        published[int(port)] = (first["HostIp"], int(first["HostPort"]))
    return published


def _networks(inspect: Mapping[str, Any]) -> dict[str, str]:
    """The address in each network, IPv4 where there is one; empty where Docker gave none."""
    return {
        name: network.get("IPAddress") or network.get("GlobalIPv6Address") or ""
        for name, network in (inspect["NetworkSettings"].get("Networks") or {}).items()
    }
