"""The door to the API of Kubernetes: pods as a list and as a watch. Only reads.

The protocol is that of "Kubernetes API Concepts": a list ends in a resource version, a watch
reports every change after it, and a version that the API has forgotten (410) needs a new list.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from exporter import __version__
from exporter.config import EVERY_NAMESPACE
from exporter.discovery.kubernetes.access import access_of
from exporter.discovery.kubernetes.refusals import (
    ExpiredError,
    connection_error,
    refusal_of,
    unreadable,
)
from exporter.discovery.targets.pods import UnreadablePodError, pod_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from ssl import SSLContext

    from exporter.config import KubernetesDiscovery
    from exporter.discovery.kubernetes.access import ApiAccess
    from exporter.discovery.targets.pods import Pod

WATCH_SECONDS = 60
"""The API ends a watch after this time, and the next one continues. So a connection that died
without a word is noticed, and a new token is used."""
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=WATCH_SECONDS + 15, sock_connect=10)
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_PAGE_PODS = 100
"""Pods in one answer of a list: reading them takes 10 ms, in which no answer of an engine gets its
time."""
_LONGEST_LINE = 4 << 20  # bytes; etcd limits an object to 1.5 MiB
_MOST_BYTES = 64 << 20
_DECODED_ERRORS = (ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class PodList:
    """All pods of a namespace by their full name, at a resource version."""

    pods: Mapping[str, Pod]
    version: str


@dataclass(frozen=True, slots=True)
class PodEvent:
    """A change. `pod` is None for a bookmark, which has only a version."""

    pod: Pod | None
    removed: bool
    version: str


class Watcher(Protocol):
    """Gets what a watch reports."""

    def connected(self) -> None:
        """The API accepted the watch."""

    def take(self, event: PodEvent) -> None:
        """Something changed."""


class KubernetesApi:
    """The pods that the settings select."""

    def __init__(self, settings: KubernetesDiscovery) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._trusted: tuple[str | None, SSLContext] | None = None

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def list_pods(self, namespace: str) -> PodList:
        """All pods, page by page. Raises `DiscoveryError` and `ExpiredError`."""
        pods: dict[str, Pod] = {}
        rest = ""
        while True:
            query = {"limit": str(_PAGE_PODS)} | ({"continue": rest} if rest else {})
            async with self._get(namespace, query, _LIST_TIMEOUT) as response:
                page = _decoded(await _whole(response))
            meta, items = page.get("metadata"), page.get("items")
            if not isinstance(meta, dict) or not isinstance(items, list | None):
                raise unreadable("it is no list of pods; is the URL that of the cluster's API?")
            pods |= {pod.full_name: pod for pod in map(_pod, items or [])}
            rest = str(meta.get("continue") or "")
            if not rest:
                return PodList(pods, str(meta.get("resourceVersion") or ""))

    async def watch_pods(self, namespace: str, version: str, watcher: Watcher) -> None:
        """Report the changes after `version`; returns when the API ends the watch.

        Raises `DiscoveryError` and `ExpiredError`.
        """
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async with self._get(namespace, query, _WATCH_TIMEOUT) as response:
            watcher.connected()
            try:
                async for line in response.content:
                    if line.strip():
                        watcher.take(_event(_decoded(line)))
            except ValueError as error:  # aiohttp's, for a line above the limit
                raise unreadable(f"a line is longer than {_LONGEST_LINE} bytes") from error

    @asynccontextmanager
    async def _get(
        self, namespace: str, query: Mapping[str, str], limit: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        access = access_of(self._settings)
        part = "" if namespace == EVERY_NAMESPACE else f"/namespaces/{namespace}"
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if access.token is not None:
            headers["Authorization"] = f"Bearer {access.token}"
        try:
            async with self._opened().get(
                f"{access.url}/api/v1{part}/pods",
                params={"labelSelector": self._settings.label_selector, **query},
                headers=headers,
                ssl=self._tls(access),
                timeout=limit,
                allow_redirects=False,  # the token is for this place only
                read_bufsize=_LONGEST_LINE // 2,  # aiohttp allows lines of twice as much
            ) as response:
                if response.status != HTTPStatus.OK:
                    said = _message(await _whole(response))
                    raise refusal_of(response.status, said, namespace, access)
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise connection_error(error, access.url) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": f"vllm-cache-exporter/{__version__}"}
            )
        return self._session

    def _tls(self, access: ApiAccess) -> SSLContext:
        if self._trusted is None or self._trusted[0] != access.certificates:
            self._trusted = access.certificates, access.context()
        return self._trusted[1]


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise unreadable(f"it is longer than {_MOST_BYTES} bytes")
    return bytes(body)


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except _DECODED_ERRORS:
        document = None
    if not isinstance(document, dict):
        raise unreadable("it is no JSON object; is the URL that of the cluster's API?")
    return document


def _message(text: bytes) -> str:
    """The message of a `Status`; else the text itself."""
    try:
        return str(json.loads(text)["message"])
    except (*_DECODED_ERRORS, KeyError, TypeError):
        return text.decode("utf-8", "replace").strip()


def _event(document: Mapping[str, Any]) -> PodEvent:
    kind, thing = document.get("type"), document.get("object")
    if kind == "ERROR":
        said = thing if isinstance(thing, dict) else {}
        if said.get("code") == HTTPStatus.GONE:
            raise ExpiredError(str(said.get("message")))
        raise unreadable(f"the watch ended with an error: {said.get('message')}")
    meta = thing.get("metadata") if isinstance(thing, dict) else None
    if not isinstance(meta, dict):
        raise unreadable(f"an event of type {str(kind)[:40]} has no object")
    pod = None if kind == "BOOKMARK" else _pod(thing)
    return PodEvent(pod, removed=kind == "DELETED", version=str(meta.get("resourceVersion") or ""))


def _pod(document: Any) -> Pod:
    try:
        return pod_of(document)
    except UnreadablePodError as error:
        raise unreadable(f"a pod cannot be read: {error}") from error
