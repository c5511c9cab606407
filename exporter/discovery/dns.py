"""A DNS name of many replicas. The system's resolver answers; it knows /etc/hosts and search lists.

A name that does not exist or has no address means: there are no replicas. A headless Service of
Kubernetes without a ready pod is such a name. Prometheus does the same (its discovery/dns). With no
answer or SERVFAIL the replicas are unknown, and the query fails.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from exporter.discovery.targets.addresses import targets_at
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure, DiscoveryResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.clock import Clock
    from exporter.config import DnsDiscovery

    Resolve = Callable[[str, socket.AddressFamily], Awaitable[list[str]]]

TIMEOUT_SECONDS = 10.0
"""For one query: the resolver's default is two tries of 5 s each."""

# One question per family: asked for both at once, the resolver hides the failure of one.
_FAMILIES = {
    "ipv4": (socket.AF_INET,),
    "ipv6": (socket.AF_INET6,),
    "both": (socket.AF_INET, socket.AF_INET6),
}
_NO_ADDRESS = {
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
}


async def resolve(host: str, family: socket.AddressFamily) -> list[str]:
    """The addresses of a name. Raises `socket.gaierror`, another OSError, or UnicodeError if the
    text cannot be a name.

    Uses a thread of its own. The event loop's few threads also serve connections to engines, and a
    thread inside the resolver cannot be stopped. A daemon thread does not delay the exit.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(outcome: list[str] | Exception) -> None:
        if answer.done():  # the caller was cancelled
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    def ask() -> None:
        outcome: list[str] | Exception
        try:
            found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
            outcome = [str(each[4][0]) for each in found]
        except Exception as error:  # noqa: BLE001 - raised again in the event loop
            outcome = error
        with suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=ask, name=f"resolve-{host}", daemon=True).start()
    return await answer


class DnsSource:
    """One name. A query joins one that still waits, so a hanging resolver holds only one thread."""

    def __init__(self, settings: DnsDiscovery, clock: Clock, resolve: Resolve = resolve) -> None:
        self._settings = settings
        self._clock = clock
        self._resolve = resolve
        self._asking: asyncio.Future[list[str]] | None = None
        self._found = frozenset[str]()
        self._latest = DiscoveryResult()

    async def query(self) -> DiscoveryResult:
        settings = self._settings
        try:
            addresses = await self._answer()
        except socket.gaierror as error:
            reason = (
                DiscoveryFailure.TEMPORARY
                if error.errno == socket.EAI_AGAIN
                else DiscoveryFailure.FAILED
            )
            raise DiscoveryError(reason, f"{settings.host}: {error.strerror}") from error
        except (OSError, UnicodeError, RuntimeError) as error:  # RuntimeError: no thread can start
            words = getattr(error, "strerror", None) or str(error)
            raise DiscoveryError(DiscoveryFailure.FAILED, f"{settings.host}: {words}") from error
        found = frozenset(addresses)
        if found != self._found:  # creating a thousand targets takes 20 ms
            self._found, self._latest = found, DiscoveryResult(targets_at(found, settings))
        return self._latest

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
            if not self._asking.cancelled():
                self._asking.exception()  # marks it as read, or asyncio logs it

    async def _answer(self) -> list[str]:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._addresses())
        asking = self._asking
        timeout = asyncio.ensure_future(self._clock.sleep(TIMEOUT_SECONDS))
        either: set[asyncio.Future[Any]] = {asking, timeout}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timeout.cancel()
        if not asking.done():
            raise DiscoveryError(
                DiscoveryFailure.TIMEOUT,
                f"{self._settings.host}: no answer within {TIMEOUT_SECONDS:g} s",
            )
        self._asking = None
        return asking.result()

    async def _addresses(self) -> list[str]:
        """The addresses of every family that counts. Raises the error of any of them."""
        found: list[str] = []
        for family in _FAMILIES[self._settings.addresses]:
            try:
                found += await self._resolve(self._settings.host, family)
            except socket.gaierror as error:
                if error.errno not in _NO_ADDRESS:
                    raise
        return found
