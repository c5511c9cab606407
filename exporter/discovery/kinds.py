"""The registry of kinds of source.

A new kind needs a settings class with a field in `DiscoverySettings`, a module with its `Source`,
and a row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exporter.config import DnsDiscovery, DockerDiscovery, KubernetesDiscovery, SourceSettings
from exporter.discovery.dns import DnsSource
from exporter.discovery.docker_labels import DockerSource
from exporter.discovery.kubernetes.pod_source import KubernetesSource
from exporter.discovery.targets.records import DiscoveryFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.clock import Clock
    from exporter.container.docker.hosts import DockerHosts
    from exporter.discovery.targets.records import Source


@dataclass(frozen=True, slots=True)
class SourceKind:
    """`finds` is what a source of this kind finds, the key of log lines about one of them.
    `failures` lists the reasons that it can fail for.
    """

    settings: type[SourceSettings]
    finds: str
    create: Callable[[Any, Clock, DockerHosts], Source]
    failures: tuple[DiscoveryFailure, ...]


# The key is the kind's field in `DiscoverySettings`.
KINDS: Mapping[str, SourceKind] = {
    "dns": SourceKind(
        DnsDiscovery,
        "address",
        lambda settings, clock, _docker: DnsSource(settings, clock),
        (
            DiscoveryFailure.TIMEOUT,
            DiscoveryFailure.TEMPORARY,
            DiscoveryFailure.FAILED,
            DiscoveryFailure.REFUSED,
        ),
    ),
    "docker": SourceKind(
        DockerDiscovery,
        "container",
        lambda settings, _clock, docker: DockerSource(settings, docker),
        (
            DiscoveryFailure.TIMEOUT,
            DiscoveryFailure.UNREACHABLE,
            DiscoveryFailure.PERMISSION_DENIED,
            DiscoveryFailure.API_ERROR,
            DiscoveryFailure.REFUSED,
        ),
    ),
    "kubernetes": SourceKind(
        KubernetesDiscovery,
        "pod",
        lambda settings, clock, _docker: KubernetesSource(settings, clock),
        (
            DiscoveryFailure.TIMEOUT,
            DiscoveryFailure.UNREACHABLE,
            DiscoveryFailure.PERMISSION_DENIED,
            DiscoveryFailure.API_ERROR,
            DiscoveryFailure.FAILED,
            DiscoveryFailure.REFUSED,
        ),
    ),
}


def kind_of(source: str) -> SourceKind:
    """The kind of the source that logs and metrics call `dns:vllm`."""
    return KINDS[source.partition(":")[0]]
