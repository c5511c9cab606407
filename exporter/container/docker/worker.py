"""One thread for blocking calls, with two timeouts: of the socket, and of the whole call.

An asyncio timeout alone does not free a thread. Here it also shuts down the sockets that the thread
waits on, so that the thread is free for the next call.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.container.decide.records import DockerError, DockerProblem
from exporter.container.docker.errors import translated
from exporter.container.docker.transport import DockerClient

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# A thread whose sockets are shut down is free within milliseconds. One that resolves a host name
# has no socket yet: it waits for the resolver's own timeout.
_FREED_WITHIN_SECONDS = 2.0

# After these problems another daemon may answer at the same host.
_PERHAPS_ANOTHER_DAEMON = {
    DockerProblem.UNREACHABLE,
    DockerProblem.TIMEOUT,
    DockerProblem.BAD_REQUEST,
    DockerProblem.API_ERROR,
}


class DockerWorker:
    """Runs calls to Docker one after the other, with its own thread and client."""

    def __init__(self, name: str, host: str, read_seconds: float) -> None:
        self._name = name
        self._host = host
        self._read_seconds = read_seconds
        self._client = DockerClient(host, read_seconds)
        self._thread = self._new_thread()
        self._turn = asyncio.Lock()
        self._current: asyncio.Future[Any] | None = None
        self._closed: DockerError | None = None
        self._unanswered = 0  # calls in a row without an answer
        self._hung: tuple[float, str] | None = None

    async def run(
        self, doing: str, work: Callable[[DockerClient], T], limit_seconds: float | None
    ) -> T:
        """Do `work` on the thread and return its result. Raises DockerError only.

        The timeout starts when the call does, not while it waits for others. After it, or when the
        caller is cancelled, the work is aborted: whether Docker did it is then not known. When two
        calls in a row got no answer, the calls that waited fail with them: the daemon hangs. A
        single one can be about a container that hangs.
        """
        asked = asyncio.get_running_loop().time()
        async with self._turn:
            self._check(doing, asked)
            submitted = self._submit(doing, work)
            future: asyncio.Future[T] = asyncio.wrap_future(submitted)
            self._current = future
            future.add_done_callback(_read_exception)
            try:
                done, _ = await asyncio.wait({future}, timeout=limit_seconds)
            except asyncio.CancelledError:
                self._abort(submitted)
                raise
            if not done:
                self._abort(submitted)
                detail = f"{doing}: no complete answer after {limit_seconds:g} s"
                self._note_silence(detail)
                raise DockerError(DockerProblem.TIMEOUT, detail)
            return self._result(doing, future)

    async def close(self, why: DockerError | None = None) -> None:
        """Abort the current call and end the thread. Later calls fail with `why`."""
        self._closed = why or DockerError(
            DockerProblem.UNREACHABLE, "the connection to Docker is closed"
        )
        self._client.close()
        freed = True
        if self._current is not None:
            _, still = await asyncio.wait({self._current}, timeout=_FREED_WITHIN_SECONDS)
            freed = not still
        if freed:
            self._client.disconnect()
        self._thread.shutdown(wait=freed, cancel_futures=True)

    def _check(self, doing: str, asked: float) -> None:
        """Raise if the worker is closed, or if this call waited for calls that hung."""
        self._check_open(doing)
        if self._hung is not None and self._hung[0] >= asked:
            raise DockerError(DockerProblem.TIMEOUT, f"{doing}: waited behind: {self._hung[1]}")

    def _check_open(self, doing: str) -> None:
        if self._closed is not None:
            raise DockerError(self._closed.problem, f"{doing}: {self._closed.detail}")

    def _result(self, doing: str, future: asyncio.Future[T]) -> T:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._check_open(doing)  # the reason of `close`
        if isinstance(error, DockerError) and error.problem is DockerProblem.TIMEOUT:
            self._note_silence(error.detail)
        else:
            self._unanswered = 0
        return future.result()

    def _note_silence(self, detail: str) -> None:
        self._unanswered += 1
        if self._unanswered > 1:
            self._hung = asyncio.get_running_loop().time(), detail

    def _submit(self, doing: str, work: Callable[[DockerClient], T]) -> Future[T]:
        try:
            return self._thread.submit(_call, self._client, doing, work)
        except RuntimeError as exc:  # "can't start new thread"
            # This pool would do the work when a later call starts its thread.
            self._thread = self._new_thread()
            raise DockerError(DockerProblem.NO_THREADS, f"{doing}: {exc}") from exc

    def _new_thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=f"docker-{self._name}")

    def _abort(self, submitted: Future[T]) -> None:
        submitted.cancel()  # works only if the thread has not started it
        client = self._client
        client.close()
        # An answer that came in the same moment is not read: its socket must not stay open.
        submitted.add_done_callback(lambda _: client.disconnect())
        if self._closed is None:
            self._client = DockerClient(self._host, self._read_seconds)


def _call(client: DockerClient, doing: str, work: Callable[[DockerClient], T]) -> T:
    """Do `work` on the thread."""
    try:
        with translated(doing):
            return work(client)
    except DockerError as exc:
        if exc.problem in _PERHAPS_ANOTHER_DAEMON:
            client.disconnect()
        raise
    finally:
        if client.closed:
            client.disconnect()


def _read_exception(future: asyncio.Future[T]) -> None:
    """Read the exception, or asyncio logs one that no caller waits for."""
    if not future.cancelled():
        future.exception()
