"""One thread for blocking calls, with two time limits: the socket's, and ours on the whole call.

An asyncio timeout alone does not free a thread. Here it shuts the sockets that the thread waits
on, so that the thread comes back and the next call finds the lane free.
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


class DockerWorker:
    """Calls to Docker, one after the other, on a thread and a client of their own."""

    def __init__(self, name: str, host: str, read_seconds: float) -> None:
        self._host = host
        self._read_seconds = read_seconds
        self._client = DockerClient(host, read_seconds)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"docker-{name}")
        self._turn = asyncio.Lock()
        self._under_way: asyncio.Future[Any] | None = None
        self._closed: DockerError | None = None
        self._unanswered = 0  # calls in a row
        self._hung: tuple[float, str] | None = None

    async def run(
        self, doing: str, work: Callable[[DockerClient], T], limit_seconds: float | None
    ) -> T:
        """Do `work` on the thread and return what it returns. Raises DockerError only.

        The limit counts from this call's turn. Past it, or when the caller is cancelled, the work
        is broken off: whether Docker did what it was asked is then not known. Calls that waited
        while two in a row got no answer fail with them: a daemon that hangs is not asked by each in
        turn. One alone may be about a container that hangs.
        """
        asked = asyncio.get_running_loop().time()
        async with self._turn:
            self._check(doing, asked)
            submitted = self._submit(doing, work)
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
                detail = f"{doing}: no whole answer after {limit_seconds:g} s"
                self._note_silence(detail)
                raise DockerError(DockerProblem.TIMEOUT, detail)
            return self._result(doing, future)

    async def close(self, why: DockerError | None = None) -> None:
        """Break off what is under way and end the thread; what is asked then fails for `why`."""
        self._closed = why or DockerError(DockerProblem.UNREACHABLE, "this door is closed")
        self._client.close()
        freed = True
        if self._under_way is not None:
            _, still = await asyncio.wait({self._under_way}, timeout=_FREED_WITHIN_SECONDS)
            freed = not still
        if freed:
            self._client.forget()
        self._thread.shutdown(wait=freed, cancel_futures=True)

    def _check(self, doing: str, asked: float) -> None:
        """Raise where the door is closed, or where a call hung for which this one waited."""
        self._check_open(doing)
        if self._hung is not None and self._hung[0] >= asked:
            raise DockerError(DockerProblem.TIMEOUT, f"{doing}: waited behind: {self._hung[1]}")

    def _check_open(self, doing: str) -> None:
        if self._closed is not None:
            raise DockerError(self._closed.problem, f"{doing}: {self._closed.detail}")

    def _result(self, doing: str, future: asyncio.Future[T]) -> T:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._check_open(doing)  # what broke it off says why
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
        call = _Call(self._client, doing, work)
        try:
            return self._thread.submit(call)
        except RuntimeError as exc:  # "can't start new thread"
            call.dropped = True  # or it would be done when a later call starts the thread
            raise DockerError(DockerProblem.NO_THREADS, f"{doing}: {exc}") from exc

    def _break_off(self, submitted: Future[T]) -> None:
        submitted.cancel()  # works only where the thread has not come to it yet
        client = self._client
        client.close()
        # An answer that came in the same moment is nobody's: its socket must not stay open.
        submitted.add_done_callback(lambda _: client.forget())
        if self._closed is None:
            self._client = DockerClient(self._host, self._read_seconds)


class _Call:
    """One piece of work for the thread, which may have been given up before it got there."""

    def __init__(
        self, client: DockerClient, doing: str, work: Callable[[DockerClient], Any]
    ) -> None:
        self.dropped = False
        self._client = client
        self._doing = doing
        self._work = work

    def __call__(self) -> Any:
        if self.dropped:
            return None
        client = self._client
        try:
            with translated(self._doing):
                return self._work(client)
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
