"""The loop that keeps the pods of one namespace current."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from exporter.discovery.kubernetes.refusals import ExpiredError
from exporter.discovery.targets.records import DiscoveryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.clock import Clock
    from exporter.discovery.kubernetes.api import KubernetesApi, PodEvent
    from exporter.discovery.targets.pods import Pod

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 10.0
"""A watch that stood for this long ended for a reason of the API's, such as its time or an update
of the control plane: the next one starts at once. One that ends earlier is a failed attempt."""


class PodWatch:
    """Lists the pods, then watches them. After an end the watch continues where it was; the pods
    are listed again if the API has forgotten that version.

    `pods` is None before the first list. `failure` is why the last attempt failed, None while a
    watch stands. Pods stay known while attempts fail.
    """

    def __init__(self, api: KubernetesApi, namespace: str, clock: Clock) -> None:
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._pods: dict[str, Pod] | None = None
        self._version = ""
        self._attempts = 0
        self._steady_at: float | None = None
        self._answered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.failure: DiscoveryError | None = None
        self.changes = 0

    @property
    def pods(self) -> Mapping[str, Pod] | None:
        """The pods by their full name."""
        return self._pods

    async def ready(self) -> None:
        """Start if that was not done, and wait for the first answer or failure.

        Raises the unexpected exception that ended the loop; the next call starts it again.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"watch-pods:{self._namespace}")
        answered = asyncio.ensure_future(self._answered.wait())
        try:
            await asyncio.wait({self._task, answered}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
        if self._task.done():
            ended, self._task = self._task, None
            ended.result()

    async def stop(self) -> None:
        """End the loop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # `ready` has no caller any more
                await task

    def connected(self) -> None:
        """A watch stands."""
        self.failure = None
        self._steady_at = self._clock.monotonic() + STEADY_SECONDS

    def take(self, event: PodEvent) -> None:
        """Apply a change."""
        self._version = event.version or self._version
        if event.pod is None or self._pods is None:
            return
        if event.removed:
            self._pods.pop(event.pod.full_name, None)
        else:
            self._pods[event.pod.full_name] = event.pod
        self.changes += 1

    async def _run(self) -> None:
        while True:
            self._steady_at = None
            try:
                await self._once()
            except ExpiredError:
                self._version = ""
            except DiscoveryError as error:
                if not self._was_steady():
                    self.failure = error
                    self._answered.set()
            await self._clock.sleep(self._pause())

    async def _once(self) -> None:
        if not self._version:
            listed = await self._api.list_pods(self._namespace)
            self._pods, self._version = dict(listed.pods), listed.version
            self.changes += 1
            self.failure = None
            self._answered.set()
        await self._api.watch_pods(self._namespace, self._version, self)

    def _was_steady(self) -> bool:
        return self._steady_at is not None and self._clock.monotonic() >= self._steady_at

    def _pause(self) -> float:
        """Seconds until the next attempt: none after a steady watch, then more and more."""
        if self._was_steady():
            self._attempts = 0
            return 0.0
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._attempts, LONGEST_PAUSE_SECONDS)
        self._attempts = min(self._attempts + 1, 10)
        return pause * random.uniform(0.75, 1.25)
