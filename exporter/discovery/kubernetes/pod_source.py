"""Pods with a label, from the API of Kubernetes."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from exporter.discovery.kubernetes.access import namespaces_of
from exporter.discovery.kubernetes.api import KubernetesApi
from exporter.discovery.kubernetes.pod_watch import PodWatch
from exporter.discovery.targets.pod_targets import targets_of_pods
from exporter.discovery.targets.records import DiscoveryError, DiscoveryResult

if TYPE_CHECKING:
    from exporter.clock import Clock
    from exporter.config import KubernetesDiscovery


class KubernetesSource:
    """One cluster and one selector, with a watch for each namespace.

    A query reads what the watches reported, without a request. It fails while one of them cannot
    be opened, because then it is unknown which pods there are.
    """

    def __init__(self, settings: KubernetesDiscovery, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._api = KubernetesApi(settings)
        self._watches: tuple[PodWatch, ...] = ()
        self._seen = -1
        self._latest = DiscoveryResult()

    async def query(self) -> DiscoveryResult:
        if not self._watches:
            self._watches = tuple(
                PodWatch(self._api, each, self._clock) for each in namespaces_of(self._settings)
            )
        for watch in self._watches:
            await watch.ready()
        for watch in self._watches:
            if watch.failure is not None:  # a new error: one that is raised again keeps growing
                raise DiscoveryError(watch.failure.reason, watch.failure.detail)
        changes = sum(watch.changes for watch in self._watches)
        if changes != self._seen:  # creating a thousand targets takes 20 ms
            pods = chain.from_iterable((watch.pods or {}).values() for watch in self._watches)
            self._seen, self._latest = changes, targets_of_pods(pods, self._settings)
        return self._latest

    async def close(self) -> None:
        for watch in self._watches:
            await watch.stop()
        await self._api.close()
