"""From containers to targets, by their labels and addresses. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from exporter.config import LABEL_PREFIX, ContainerLabels
from exporter.container.decide.records import ContainerStatus
from exporter.discovery.targets.addresses import url_of
from exporter.discovery.targets.overrides import (
    NotATarget,
    checked_target,
    overrides_in,
    said_name,
)
from exporter.discovery.targets.records import DiscoveryResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.config import DockerDiscovery, Target
    from exporter.container.decide.records import ContainerSnapshot

_HOST_NETWORK = "host"  # Docker's own name for the network of the machine itself
_RUNNING = {ContainerStatus.RUNNING, ContainerStatus.PAUSED}
_NOT_THERE = {ContainerStatus.CREATED, ContainerStatus.REMOVING, ContainerStatus.DEAD}


def targets_of(
    containers: Iterable[ContainerSnapshot], settings: DockerDiscovery
) -> DiscoveryResult:
    """The targets among all containers with the label, stopped ones included.

    Only a container with a mistake in its labels is left out. A stopped container stays a target
    in mode `attached` until it is removed; its address is unknown until it runs again.
    """
    targets: dict[str, Target] = {}
    away = set[str]()
    mistakes: dict[str, str] = {}
    for each in sorted(containers, key=lambda container: container.name):
        if each.status not in _RUNNING:
            if settings.mode == "attached" and each.status not in _NOT_THERE:
                away.add(_name_of(each))
            continue
        try:
            target = _target(each, settings)
        except NotATarget as why:
            mistakes[each.name] = str(why)
            continue
        if target.name in targets:
            mistakes[each.name] = f'another container has the name "{target.name}" too'
        else:
            targets[target.name] = target
    return DiscoveryResult(tuple(targets.values()), frozenset(away - targets.keys()), mistakes)


def _target(container: ContainerSnapshot, settings: DockerDiscovery) -> Target:
    said = overrides_in(container.labels, ContainerLabels, "label")
    scheme = said.scheme or settings.scheme
    path = settings.path if said.path is None else said.path
    address, port = _place(container, said, settings)
    facts = settings.template() | {
        "name": said.name or container.name,
        "mode": settings.mode,
        "url": url_of(scheme, address, port, path),
    }
    if said.model is not None:
        facts["model"] = said.model
    facts["labels"] = {**settings.labels, **said.labels}
    if settings.mode == "attached":
        facts["container"] = {
            "name": container.name,
            "docker_host": settings.docker_host,
            "docker_timeout_seconds": settings.docker_timeout_seconds,
        }
    return checked_target(facts)


def _name_of(container: ContainerSnapshot) -> str:
    """The name of its target, also if its labels have mistakes."""
    return said_name(container.labels, container.name)


def _place(
    container: ContainerSnapshot, said: ContainerLabels, settings: DockerDiscovery
) -> tuple[str, int]:
    port = said.port or settings.port
    if settings.address == "published":
        return _published(container, port, settings)
    address = _address(container, said.network or settings.network)
    return address or _machine(settings), port


def _address(container: ContainerSnapshot, wanted: str | None) -> str:
    """Its address in a network; empty for Docker's host network."""
    networks = container.networks
    if wanted is None and len(networks) > 1:
        raise NotATarget(
            f"it is in the networks {', '.join(sorted(networks))}: say which one counts, with the "
            f"setting network or the label {LABEL_PREFIX}.network"
        )
    name = wanted if wanted is not None else next(iter(networks), None)
    if name is None or name not in networks:
        raise NotATarget(f"it is not in the network {name}" if name else "it is in no network")
    if not networks[name] and name != _HOST_NETWORK:
        raise NotATarget(f"it has no address in the network {name}")
    return networks[name]


def _published(
    container: ContainerSnapshot, port: int, settings: DockerDiscovery
) -> tuple[str, int]:
    if port not in container.published_ports:
        raise NotATarget(f"its port {port} is not published")
    address, published = container.published_ports[port]
    if not address or ipaddress.ip_address(address).is_unspecified:
        return _machine(settings), published
    if ipaddress.ip_address(address).is_loopback and not _is_local(settings):
        raise NotATarget(f"its port {port} is published for its own machine only")
    return address, published


def _machine(settings: DockerDiscovery) -> str:
    """The address of the machine that Docker runs on."""
    return "127.0.0.1" if _is_local(settings) else urlsplit(settings.docker_host).hostname or ""


def _is_local(settings: DockerDiscovery) -> bool:
    return settings.docker_host.startswith("unix:")
