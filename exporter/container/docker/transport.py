"""docker-py's client with two additions: a timeout for every request, and an abort.

docker-py streams with `timeout=None`, so a daemon that accepts a connection and does not answer
blocks the thread for ever, and it cannot abort a request that waits for an answer. Here every
request has a timeout, and `close` frees the thread that waits in one.
"""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import docker
import docker.constants
import docker.transport
import requests
import requests.adapters

from exporter.container.decide.records import DockerError, DockerProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_UNIX_BASE = "http+docker://localhost"
_SCHEMES = {"unix", "tcp", "http", "https"}
_LONGEST_CONNECT_SECONDS = 5.0  # a running daemon accepts at once, even a busy one


class _Sockets:
    """The open sockets of one client. Another thread may shut them all down, for good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self.closed = False

    def add(self, new: socket.socket) -> None:
        with self._lock:
            self._open.add(new)
            closed = self.closed
        if closed:
            _shut(new)

    def shut(self) -> None:
        with self._lock:
            self.closed = True
            sockets = list(self._open)
        for each in sockets:
            _shut(each)

    def wait_without_limit(self) -> None:
        """No timeout for reads from now on. Keepalive still detects a peer that is gone."""
        with self._lock:
            sockets = list(self._open)
        for each in sockets:
            with suppress(OSError):  # closed in the meantime
                each.settimeout(None)
                if each.family != socket.AF_UNIX:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _shut(open_socket: socket.socket) -> None:
    # shutdown, not close: only shutdown wakes a thread that is blocked in recv.
    with suppress(OSError):  # no longer connected
        open_socket.shutdown(socket.SHUT_RDWR)


def _watch(pool: Any, sockets: _Sockets, connect_with: Callable[[Any], None]) -> Any:
    """Add each connection that a urllib3 pool opens to `sockets`."""
    if getattr(pool, "watched", False):
        return pool
    make_connection = pool._new_conn  # noqa: SLF001 - docker-py replaces it, too

    def make_watched_connection() -> Any:
        connection = make_connection()

        def connect_and_add() -> None:
            connect_with(connection)
            sockets.add(connection.sock)

        connection.connect = connect_and_add
        return connection

    pool._new_conn = make_watched_connection  # noqa: SLF001 - as above
    pool.watched = True
    return pool


class _UnixAdapter(docker.transport.UnixHTTPAdapter):
    def __init__(self, path: str, timeout: float, sockets: _Sockets) -> None:
        super().__init__(f"http+unix://{path}", timeout)  # type: ignore[arg-type]
        self._path = path
        self._sockets = sockets

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        # docker-py has a pool per URL, so each path would open its own socket.
        return _watch(self.get_connection(_UNIX_BASE), self._sockets, self._connect)

    def _connect(self, connection: Any) -> None:
        """As docker-py does it, but closes a socket that could not connect."""
        new = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            new.settimeout(connection.timeout)
            new.connect(self._path)
        except OSError:
            new.close()
            raise
        connection.sock = new


class _TcpAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, sockets: _Sockets) -> None:
        super().__init__()
        self._sockets = sockets

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        return _watch(pool, self._sockets, pool.ConnectionCls.connect)


class _LimitedClient(docker.APIClient):
    """Adds a timeout to requests that docker-py sends without one."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        read = kwargs.get("timeout") or self.timeout
        kwargs["timeout"] = (min(read, _LONGEST_CONNECT_SECONDS), read)
        return super().request(*args, **kwargs)


class DockerClient:
    """One client for one thread; only `close` may be called from another.

    `host` is unix:///path, tcp://host:port (http:// is the same) or https://host:port with a
    certificate of a public authority. `read_seconds` limits the daemon's silence before and within
    an answer, not the whole answer. Nothing is sent before the first use.
    """

    def __init__(self, host: str, read_seconds: float) -> None:
        scheme = urlsplit(host).scheme
        if scheme not in _SCHEMES:
            raise DockerError(
                DockerProblem.BAD_REQUEST,
                f"the Docker host {host!r} is neither unix:///path nor tcp://host:port",
            )
        self._host = host
        self._read_seconds = read_seconds
        self._sockets = _Sockets()
        self._api: _LimitedClient | None = None
        self._answers: weakref.WeakSet[requests.Response] = weakref.WeakSet()

    @property
    def api(self) -> docker.APIClient:
        """docker-py's client, with the daemon's API version. Raises docker-py's errors."""
        if self._api is None:
            first = self._make(docker.constants.MINIMUM_DOCKER_API_VERSION)
            try:
                version = first.version(api_version=False)["ApiVersion"]
            finally:
                first.close()
            self._api = self._make(version)
        return self._api

    @property
    def closed(self) -> bool:
        return self._sockets.closed

    def get(self, path: str, query: Mapping[str, Any], *, endless: bool) -> requests.Response:
        """The answer to GET `path`, with its body not read yet.

        An endless body has no timeout.
        """
        api = self.api
        url = f"{api.base_url}/v{api.api_version}{path}"
        response = api.get(url, params=dict(query), stream=True)
        self._answers.add(response)
        response.raise_for_status()
        if endless:
            self._sockets.wait_without_limit()
        return response

    def disconnect(self) -> None:
        """The next use connects again: a daemon that comes back may have another API version."""
        for answer in list(self._answers):  # an unfinished one keeps its socket
            answer.close()
        if self._api is not None:
            self._api.close()
            self._api = None

    def close(self) -> None:
        """Free the thread that waits in this client. It cannot be used afterwards."""
        self._sockets.shut()

    def _make(self, version: str) -> _LimitedClient:
        api = _LimitedClient(self._host, version=version, timeout=self._read_seconds)  # type: ignore[arg-type]
        # HTTP_PROXY does not apply to Docker.
        api.trust_env = False
        if urlsplit(self._host).scheme == "unix":
            path = urlsplit(self._host).path
            api.mount("http+docker://", _UnixAdapter(path, self._read_seconds, self._sockets))
        else:
            api.mount("http://", _TcpAdapter(self._sockets))
            api.mount("https://", _TcpAdapter(self._sockets))
        return api
