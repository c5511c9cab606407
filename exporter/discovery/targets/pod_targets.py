"""From pods to targets, by their phase, labels, annotations and ports. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

from exporter.config import PodLabels
from exporter.discovery.targets.addresses import url_of
from exporter.discovery.targets.overrides import (
    NotATarget,
    checked_target,
    overrides_in,
    said_name,
)
from exporter.discovery.targets.pods import PodPhase
from exporter.discovery.targets.records import DiscoveryResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.config import KubernetesDiscovery, Target
    from exporter.discovery.targets.pods import Pod

_ENDED = {PodPhase.SUCCEEDED, PodPhase.FAILED}
_LONGEST_NAME = 64  # characters of a target's name
_DIGEST = 8


def targets_of_pods(pods: Iterable[Pod], settings: KubernetesDiscovery) -> DiscoveryResult:
    """The targets among the pods that the selector finds.

    A running pod is a target whether it is ready or not: an engine that loads, hangs or crashes
    again and again must not vanish from the measurements. A pod that has not started has no server
    yet; if it takes the name of a target, as in a StatefulSet, that target stays. A pod that is
    being deleted or has ended is missing.
    """
    targets: dict[str, Target] = {}
    waiting = set[str]()
    mistakes: dict[str, str] = {}
    for pod in sorted(pods, key=lambda each: (each.namespace, each.name)):
        if pod.deleted or pod.phase in _ENDED:
            continue
        if pod.phase is PodPhase.PENDING or not pod.address:
            waiting.add(said_name(pod.overrides, name_of_pod(pod)))
            continue
        try:
            target = _target(pod, settings)
        except NotATarget as why:
            mistakes[pod.full_name] = str(why)
            continue
        if target.name in targets:
            mistakes[pod.full_name] = f'another pod has the name "{target.name}" too'
        else:
            targets[target.name] = target
    return DiscoveryResult(tuple(targets.values()), frozenset(waiting - targets.keys()), mistakes)


def name_of_pod(pod: Pod) -> str:
    """`namespace.pod`: a namespace has no dot, so two pods never share a name.

    A name that is too long for a target ends in a digest of the whole.
    """
    full = f"{pod.namespace}.{pod.name}"
    if len(full) <= _LONGEST_NAME:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:_DIGEST]
    return f"{full[: _LONGEST_NAME - _DIGEST - 1]}-{digest}"


def _target(pod: Pod, settings: KubernetesDiscovery) -> Target:
    said = overrides_in(pod.overrides, PodLabels, "label or annotation")
    path = settings.path if said.path is None else said.path
    port = _port(pod, said.port or settings.port)
    facts = settings.template() | {
        "name": said.name or name_of_pod(pod),
        "mode": "external",
        "url": url_of(said.scheme or settings.scheme, _address(pod), port, path),
    }
    if said.model is not None:
        facts["model"] = said.model
    facts["labels"] = {**settings.labels, **said.labels}
    return checked_target(facts)


def _address(pod: Pod) -> str:
    try:
        return str(ipaddress.ip_address(pod.address))
    except ValueError:
        raise NotATarget(f'its address "{pod.address}" is no IP address') from None


def _port(pod: Pod, wanted: int | str) -> int:
    if isinstance(wanted, int):
        return wanted
    if wanted not in pod.ports:
        known = ", ".join(sorted(pod.ports)) or "none with a name"
        raise NotATarget(f'no container has a port with the name "{wanted}"; there are: {known}')
    return pod.ports[wanted]
