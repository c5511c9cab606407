"""Names and passwords before the pages: HTTP basic authentication against bcrypt hashes.

A look at a bcrypt hash takes tens of milliseconds on purpose, so it is done in one thread beside
the event loop, and what was right once is remembered: a scrape costs a digest. What was wrong is
not remembered, and who sends more than a few at a time is turned away: a stranger who guesses gets
no more than that one thread, and holds up nobody who was let in before.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.stdlib.get_logger(__name__)

_REMEMBERED = 100  # credentials; each is 32 bytes
_WAITING = 64  # looks in the thread's queue,
_WAITING_OF_A_CLIENT = 4  # and those of one address: a browser asks for several things at a time
_LONGEST_PASSWORD = 72  # bytes that bcrypt reads; what makes its hashes drops the rest too
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="vllm-cache-exporter", charset="UTF-8"'}


class Verdict(Enum):
    """What became of a request's credentials."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    BUSY = "busy"  # too many others wait for theirs to be looked at


class BasicAuth:
    """Lets in who has a name and password of `users` (name to bcrypt hash); without users, all."""

    def __init__(self, users: Mapping[bytes, bytes]) -> None:
        self._users = users
        self._key = secrets.token_bytes(32)  # what is remembered is worth nothing elsewhere
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")
        self._waiting: Counter[str] = Counter()

    @property
    def asks(self) -> bool:
        """Whether a password is asked for at all."""
        return bool(self._users)

    def replace(self, users: Mapping[bytes, bytes]) -> None:
        """From now on these. What was remembered counts only with the hash it was right for."""
        self._users = users

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """In front of every page. Raises the 401 or 503 that the client gets."""
        if self.asks:
            verdict = await self.judge(request.headers.get("Authorization"), request.remote or "")
            if verdict is not Verdict.ADMITTED:
                log.debug("http.not_admitted", verdict=verdict.value, client=request.remote)
            if verdict is Verdict.REFUSED:
                raise web.HTTPUnauthorized(headers=_CHALLENGE)
            if verdict is Verdict.BUSY:
                raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"})
        return await handler(request)

    async def judge(self, authorization: str | None, client: str = "") -> Verdict:
        """Whether these credentials are right, in the same time for a known and an unknown name."""
        credentials = parse(authorization)
        if credentials is None:
            return Verdict.REFUSED
        name, password = credentials
        users = self._users
        digest = self._digest(name, password, users)
        if digest in self._right:
            self._right.move_to_end(digest)
            return Verdict.ADMITTED
        waiting = self._waiting
        if waiting[client] >= _WAITING_OF_A_CLIENT or waiting.total() >= _WAITING:
            return Verdict.BUSY
        waiting[client] += 1
        try:
            right = await asyncio.get_running_loop().run_in_executor(
                self._thread, _is_right, name, password, users
            )
        finally:
            waiting[client] -= 1
            if waiting[client] == 0:
                del waiting[client]
        if not right:
            return Verdict.REFUSED
        self._right[digest] = None
        if len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)
        return Verdict.ADMITTED

    def _digest(self, name: bytes, password: bytes, users: Mapping[bytes, bytes]) -> bytes:
        parts = (name, users.get(name, b""), password)
        framed = b"".join(len(each).to_bytes(4, "big") + each for each in parts)
        return hmac.digest(self._key, framed, hashlib.sha256)


def parse(authorization: str | None) -> tuple[bytes, bytes] | None:
    """Name and password of a header `Basic …`; None where it is not of that form."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def _is_right(name: bytes, password: bytes, users: Mapping[bytes, bytes]) -> bool:
    """Look at the hash of that name. Blocks; as long for one name as for any other.

    The time of a look doubles with each step of a hash's cost, so a hash that is cheaper than the
    dearest is made up for with looks at nobody's hash: 2^c + (2^c + … + 2^(d-1)) = 2^d.
    """
    import bcrypt  # noqa: PLC0415 - most programs ask for no password

    dearest = max(_cost(each) for each in users.values())
    known = users.get(name)
    hashed = _nobodys(dearest) if known is None else known
    right = bcrypt.checkpw(password[:_LONGEST_PASSWORD], hashed)
    for cost in range(_cost(hashed), dearest):
        bcrypt.checkpw(b"", _nobodys(cost))
    return right and known is not None


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _nobodys(cost: int) -> bytes:
    """A hash that no password is known to have."""
    return b"$2b$%02d$" % cost + b"." * 53
