"""DNS names of many replicas: asks the system's resolver, which knows /etc/hosts and search lists.

A name that does not exist, or has no address, is an answer: there are none. A headless Service of
Kubernetes without a ready pod is such a name. Prometheus takes it so, too (its discovery/dns). No
answer, or SERVFAIL, is none: whether the replicas are there is not known then.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from exporter.discovery.decide.addresses import targets_at
from exporter.discovery.decide.records import DiscoveryError, DiscoveryFailure, DiscoveryResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.clock import Clock
    from exporter.config import DnsDiscovery

    Resolve = Callable[[str, socket.AddressFamily], Awaitable[list[str]]]

PATIENCE_SECONDS = 10.0
"""How long a look may take: two tries of 5 s each, as the resolver makes them by default."""

# Asked for both at once, the resolver gives one kind where the question for the other failed.
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
    """The addresses of a name. Raises `socket.gaierror`, another OSError, or UnicodeError where
    the text cannot be a name.

    On a thread of its own, not one of the event loop's: those are few, connections to engines wait
    for them too, and a thread in the resolver cannot be broken off. This one keeps no process from
    ending.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def settle(outcome: list[str] | Exception) -> None:
        if answer.done():  # whoever asked is gone
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where it was asked
            outcome = error
        with suppress(RuntimeError):  # the program has ended in the meantime
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=ask, name=f"resolve-{host}", daemon=True).start()
    return await answer


class DnsSource:
    """One name. Looks wait for each other: a resolver that hangs holds one thread, not many."""

    def __init__(self, settings: DnsDiscovery, clock: Clock, resolve: Resolve = resolve) -> None:
        self._settings = settings
        self._clock = clock
        self._resolve = resolve
        self._asking: asyncio.Future[list[str]] | None = None
        self._found = frozenset[str]()
        self._latest = DiscoveryResult()

    async def look(self) -> DiscoveryResult:
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
        except (OSError, UnicodeError, RuntimeError) as error:  # the last: no thread can be started
            words = getattr(error, "strerror", None) or str(error)
            raise DiscoveryError(DiscoveryFailure.FAILED, f"{settings.host}: {words}") from error
        found = frozenset(addresses)
        if found != self._found:  # to make a thousand targets takes as long as 20 ms
            self._found, self._latest = found, DiscoveryResult(targets_at(found, settings))
        return self._latest

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
            if not self._asking.cancelled():
                self._asking.exception()  # an error that came when nobody waited any more

    async def _answer(self) -> list[str]:
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._addresses())
        asking = self._asking
        patience = asyncio.ensure_future(self._clock.sleep(PATIENCE_SECONDS))
        either: set[asyncio.Future[Any]] = {asking, patience}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            patience.cancel()
        if not asking.done():
            raise DiscoveryError(
                DiscoveryFailure.TIMEOUT,
                f"{self._settings.host}: no answer within {PATIENCE_SECONDS:g} s",
            )
        self._asking = None
        return asking.result()

    async def _addresses(self) -> list[str]:
        """Those of every kind that counts: all of them, or the error of one."""
        found: list[str] = []
        for family in _FAMILIES[self._settings.addresses]:
            try:
                found += await self._resolve(self._settings.host, family)
            except socket.gaierror as error:
                if error.errno not in _NO_ADDRESS:
                    raise
        return found
