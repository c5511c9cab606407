"""The API of Kubernetes for pods, on a real aiohttp server: list and watch as an API server does.

Pages with `continue`, resource versions, bookmarks, versions that are forgotten, rights by verb
and namespace, bearer tokens, label selectors, and streams that break. The objects have the shape
of a real cluster's.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from copy import deepcopy
from typing import Any, Self

from aiohttp import web

CONTAINER = {
    "name": "vllm",
    "image": "vllm/vllm-openai:v0.32.0",
    "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
    "terminationMessagePath": "/dev/termination-log",
}
CONTAINER_STATUS = {
    "name": "vllm",
    "image": "vllm/vllm-openai:v0.32.0",
    "imageID": "docker.io/vllm/vllm-openai@sha256:4f1c",
    "restartCount": 0,
    "started": True,
    "state": {"running": {"startedAt": "2026-11-29T06:00:00Z"}},
}


def pod_object(
    name="vllm-0", namespace="vllm", *, ip="127.0.0.2", phase="Running", ready=True, **more
) -> dict[str, Any]:
    """A pod as the API shows it. `labels`, `annotations` and `ports` replace the defaults."""
    now = "2026-11-29T06:00:00Z"
    status: dict[str, Any] = {
        "phase": phase,
        "qosClass": "Burstable",
        "conditions": [
            {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": now}
        ],
        "containerStatuses": [CONTAINER_STATUS | {"ready": ready}],
    }
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.1.0.4"}
    meta: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{namespace}-{name}",
        "creationTimestamp": now,
        "labels": {"io.vllm-cache-exporter.scrape": "true"} | more.get("labels", {}),
        "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:x": {}}}],
    }
    if "annotations" in more:
        meta["annotations"] = more["annotations"]
    if more.get("terminating"):
        meta |= {"deletionTimestamp": now, "deletionGracePeriodSeconds": 30}
    container = deepcopy(CONTAINER) | ({"ports": more["ports"]} if "ports" in more else {})
    return {
        "metadata": meta,
        "spec": {"nodeName": "node-1", "containers": [container], "restartPolicy": "Always"},
        "status": status,
    }


class Refused(Exception):  # noqa: N818 - an answer of the API
    """A `Status` that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


class FakeKubernetes:
    """Use as a context manager. A test changes pods by `put` and `delete`."""

    def __init__(self, port: int = 0) -> None:
        self.version = 1000
        self.oldest = 0
        self.expires_by_status = False
        self.page_limit: int | None = None
        self.tokens: set[str] | None = None
        self.forbidden: set[tuple[str, str]] = set()  # verb and namespace; "*" is the cluster
        self.away = False
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []
        self._pods: dict[tuple[str, str], dict[str, Any]] = {}
        self._history: list[tuple[int, dict[str, Any] | None, dict[str, Any] | None]] = []
        self._changed = asyncio.Condition()
        self._streams: dict[web.StreamResponse, web.Request] = {}
        self._runner: web.AppRunner | None = None
        self._port = port
        self.url = ""

    async def start(self, ssl_context=None) -> str:
        """Listen; after `stop` at the same port again."""
        self.away = False
        app = web.Application()
        app.router.add_get("/api/v1/pods", self._answer)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=ssl_context)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'https' if ssl_context else 'http'}://127.0.0.1:{self._port}"
        return self.url

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Nothing listens any more, and open watches end."""
        self.away = True
        self.cut()
        if self._runner is not None:
            await self._runner.cleanup()

    # What happens in the cluster

    async def put(self, pod: dict[str, Any]) -> None:
        """Create a pod, or change it."""
        key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self.version += 1
        pod = deepcopy(pod)
        pod["metadata"]["resourceVersion"] = str(self.version)
        await self._happened(self._pods.get(key), pod)
        self._pods[key] = pod

    async def delete(self, name: str, namespace: str = "vllm") -> None:
        before = self._pods.pop((namespace, name))
        self.version += 1
        await self._happened(before, None)

    async def bookmark(self) -> None:
        """Tell every watch a version that has nothing to do with its pods."""
        self.version += 1
        await self._happened(None, None)

    def forget(self) -> None:
        """Compact: versions up to now can neither be watched nor continued."""
        self.oldest = self.version

    def cut(self) -> None:
        """Break every open stream in the middle of a line."""
        for stream, request in list(self._streams.items()):
            with contextlib.suppress(Exception):
                request.transport.write(b'20\r\n{"type":"MODIFIED","obje')
            if request.transport is not None:
                request.transport.abort()
            self._streams.pop(stream, None)

    def seen(self, verb: str) -> list[dict[str, str]]:
        """The queries of the requests with this verb."""
        return [query for asked, _, query in self.requests if asked == verb]

    @property
    def watchers(self) -> int:
        return len(self._streams)

    async def _happened(self, before, after) -> None:
        async with self._changed:
            self._history.append((self.version, before, after))
            self._changed.notify_all()

    # What it answers

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        namespace = request.match_info.get("namespace", "*")
        if namespace == "*" and "namespaces" in request.path:
            namespace = "no namespace has this name"
        verb = "watch" if request.query.get("watch") in {"1", "true"} else "list"
        self.requests.append((verb, namespace, dict(request.query)))
        self.headers.append(dict(request.headers))
        if self.away:
            request.transport.abort()
            return web.Response()
        try:
            self._authorize(request, verb, namespace)
            wanted = selector(request.query.get("labelSelector", ""))
            if verb == "watch":
                return await self._watch(request, namespace, wanted)
            return web.json_response(self._list(request, namespace, wanted))
        except Refused as refused:
            return web.json_response(refused.body, status=refused.body["code"])

    def _authorize(self, request, verb, namespace) -> None:
        if self.tokens is not None:
            said = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if said not in self.tokens:
                raise Refused(401, "Unauthorized", "Unauthorized")
        if (verb, namespace) in self.forbidden:
            where = (
                "at the cluster scope" if namespace == "*" else f'in the namespace "{namespace}"'
            )
            raise Refused(
                403,
                "Forbidden",
                'pods is forbidden: User "system:serviceaccount:vllm-cache-exporter:vllm-cache-exporter" '
                f'cannot {verb} resource "pods" in API group "" {where}',
            )

    def _list(self, request, namespace, wanted) -> dict[str, Any]:
        start, version = 0, self.version
        if "continue" in request.query:
            token = json.loads(base64.b64decode(request.query["continue"]))
            start, version = token["start"], token["rv"]
            if version < self.oldest:
                raise Refused(
                    410,
                    "Expired",
                    "The provided continue parameter is too old to display a consistent list result.",
                )
        found = [
            pod
            for (place, _), pod in sorted(self._pods.items())
            if namespace in {"*", place} and wanted(pod)
        ]
        limit = self.page_limit or int(request.query.get("limit", 0)) or len(found)
        meta = {"resourceVersion": str(version)}
        if start + limit < len(found):
            token = {"v": "meta.k8s.io/v1", "rv": version, "start": start + limit}
            meta["continue"] = base64.b64encode(json.dumps(token).encode()).decode()
            meta["remainingItemCount"] = len(found) - start - limit
        items = found[start : start + limit] or None  # Go writes an empty slice as null or []
        return {"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": items}

    async def _watch(self, request, namespace, wanted) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        gone = f"too old resource version: {since} ({self.oldest})"
        if since < self.oldest and self.expires_by_status:
            raise Refused(410, "Expired", gone)
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        if since < self.oldest:
            await stream.write(line("ERROR", Refused(410, "Expired", gone).body))
            return stream
        self._streams[stream] = request
        try:
            async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                await self._follow(stream, namespace, wanted, since)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._streams.pop(stream, None)
        return stream

    async def _follow(self, stream, namespace, wanted, since) -> None:
        told = 0
        while True:
            for version, before, after in self._history[told:]:
                told += 1
                event = event_of(version, before, after, namespace, wanted)
                if version > since and event is not None:
                    await stream.write(event)
            async with self._changed:
                if told == len(self._history):
                    await self._changed.wait()


BOOKMARK = {"kind": "Pod", "apiVersion": "v1", "spec": {"containers": None}, "status": {}}


def event_of(version, before, after, namespace, wanted) -> bytes | None:
    """The line of a watch: a pod that leaves the selector is DELETED for its watchers."""

    def counts(pod) -> bool:
        return pod is not None and namespace in {"*", pod["metadata"]["namespace"]} and wanted(pod)

    if before is None and after is None:
        meta = {"resourceVersion": str(version), "creationTimestamp": None}
        return line("BOOKMARK", BOOKMARK | {"metadata": meta})
    if counts(after):
        return line("MODIFIED" if counts(before) else "ADDED", as_object(after))
    if counts(before):
        last = deepcopy(after or before)
        last["metadata"]["resourceVersion"] = str(version)
        return line("DELETED", as_object(last))
    return None


def as_object(pod) -> dict[str, Any]:
    """The items of a list have no kind; the objects of a watch do."""
    return {"kind": "Pod", "apiVersion": "v1", **pod}


def line(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def selector(text: str):
    """Equality, `in` and existence, as in `kubectl --selector`."""
    rules = []
    for part in re.findall(r"[^,(]+(?:\([^)]*\))?", text):
        if found := re.fullmatch(r"([\w./-]+) in \(([^)]*)\)", part):
            rules.append((found[1], {each.strip() for each in found[2].split(",")}))
        elif found := re.fullmatch(r"([\w./-]+)==?([\w.-]*)", part):
            rules.append((found[1], {found[2]}))
        elif re.fullmatch(r"[\w./-]+", part):
            rules.append((part, None))
        else:
            raise Refused(
                400,
                "BadRequest",
                f"unable to parse requirement: found '{part[-1]}', expected: identifier",
            )

    def wanted(pod) -> bool:
        labels = pod["metadata"].get("labels", {})
        return all(
            key in labels and (values is None or labels[key] in values) for key, values in rules
        )

    return wanted
