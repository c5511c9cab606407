"""One thread for blocking calls, with two time limits: the socket's, and ours on the whole call.

An asyncio timeout alone does not free a thread. Here it shuts the sockets that the thread waits
on, so that the thread comes back and the next call finds the lane free.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.container.docker_errors import translated
from exporter.container.docker_transport import DockerClient
from exporter.container.records import DockerError, DockerProblem

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# A thread whose sockets are shut is back within milliseconds. One that resolves a host name has
# no socket yet: it is left to the resolver's own limit.
_FREED_WITHIN_SECONDS = 2.0

# After these the daemon behind the host may be another one than before.
_PERHAPS_ANOTHER_DAEMON = {
    DockerProblem.UNREACHABLE,
    DockerProblem.TIMEOUT,
    DockerProblem.BAD_REQUEST,
    DockerProblem.API_ERROR,
}


class Lane:
    """Calls to Docker, one after the other, on a thread and a client of their own."""

    def __init__(self, name: str, host: str, read_seconds: float) -> None:
        self._host = host
        self._read_seconds = read_seconds
        self._client = DockerClient(host, read_seconds)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"docker-{name}")
        self._turn = asyncio.Lock()
        self._under_way: asyncio.Future[Any] | None = None
        self._closed = False

    async def run(
        self, doing: str, work: Callable[[DockerClient], T], limit_seconds: float | None
    ) -> T:
        """Do `work` on the thread and return what it returns. Raises DockerError only.

        The limit counts from this call's turn. Past it, or when the caller is cancelled, the work
        is broken off: whether Docker did what it was asked is then not known.
        """
        async with self._turn:
            if self._closed:
                raise DockerError(DockerProblem.UNREACHABLE, f"{doing}: this door is closed")
            client = self._client
            submitted = self._thread.submit(_do, client, doing, work)
            future: asyncio.Future[T] = asyncio.wrap_future(submitted)
            self._under_way = future
            future.add_done_callback(_look_at)
            try:
                done, _ = await asyncio.wait({future}, timeout=limit_seconds)
            except asyncio.CancelledError:
                self._break_off(submitted)
                raise
            if not done:
                self._break_off(submitted)
                raise DockerError(
                    DockerProblem.TIMEOUT, f"{doing}: no whole answer after {limit_seconds:g} s"
                )
            return future.result()

    async def close(self) -> None:
        """Break off what is under way and end the thread."""
        self._closed = True
        self._client.close()
        freed = True
        if self._under_way is not None:
            _, still = await asyncio.wait({self._under_way}, timeout=_FREED_WITHIN_SECONDS)
            freed = not still
        if freed:
            self._client.forget()
        self._thread.shutdown(wait=freed, cancel_futures=True)

    def _break_off(self, submitted: Future[T]) -> None:
        submitted.cancel()  # works only where the thread has not come to it yet
        self._client.close()
        if not self._closed:
            self._client = DockerClient(self._host, self._read_seconds)


def _do(client: DockerClient, doing: str, work: Callable[[DockerClient], T]) -> T:
    try:
        with translated(doing):
            return work(client)
    except DockerError as exc:
        if exc.problem in _PERHAPS_ANOTHER_DAEMON:
            client.forget()
        raise
    finally:
        if client.closed:
            client.forget()


def _look_at(future: asyncio.Future[T]) -> None:
    """Where nobody waits any more, whatever came of it is not an error that went unnoticed."""
    if not future.cancelled():
        future.exception()
