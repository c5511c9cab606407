"""HTTP basic authentication against bcrypt hashes.

Checking a bcrypt hash takes tens of milliseconds by design, so one thread does it, outside the
event loop. Correct credentials are remembered, so that a scrape costs one digest. Wrong credentials
are not remembered, and a client with more than a few checks waiting gets 503: a client that guesses
passwords occupies only this thread and does not slow down clients with remembered credentials.
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
    from collections.abc import Mapping

    from aiohttp.typedefs import Handler

log = structlog.stdlib.get_logger(__name__)

_REMEMBERED = 100  # credentials; each is 32 bytes
_WAITING = 64  # checks in the thread's queue,
_WAITING_OF_A_CLIENT = 4  # and those of one address: a browser sends several requests at a time
_LONGEST_PASSWORD = 72  # bytes that bcrypt reads; the programs that make hashes drop the rest too
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="vllm-cache-exporter", charset="UTF-8"'}


class Verdict(Enum):
    """The result of checking a request's credentials."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    BUSY = "busy"  # too many checks are waiting


class BasicAuth:
    """Admits requests with a name and password of `users` (name to bcrypt hash).

    Without users it admits every request.
    """

    def __init__(self, users: Mapping[bytes, bytes]) -> None:
        self._users = users
        self._key = secrets.token_bytes(32)  # so that a leaked digest is useless elsewhere
        self._correct: OrderedDict[bytes, None] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")
        self._waiting: Counter[str] = Counter()

    def replace(self, users: Mapping[bytes, bytes]) -> None:
        """Set the users. A remembered password stays valid only while its hash is unchanged."""
        self._users = users

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Runs before every page. Raises the 401 or 503 that the client gets."""
        if self._users:
            verdict = await self.judge(request.headers.get("Authorization"), request.remote or "")
            if verdict is not Verdict.ADMITTED:
                log.debug("http.not_admitted", verdict=verdict.value, client=request.remote)
            if verdict is Verdict.REFUSED:
                raise web.HTTPUnauthorized(headers=_CHALLENGE)
            if verdict is Verdict.BUSY:
                raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"})
        return await handler(request)

    async def judge(self, authorization: str | None, client: str = "") -> Verdict:
        """Check the credentials, in the same time for a known and an unknown name."""
        credentials = parse(authorization)
        if credentials is None:
            return Verdict.REFUSED
        name, password = credentials
        users = self._users
        digest = self._digest(name, password, users)
        if digest in self._correct:
            self._correct.move_to_end(digest)
            return Verdict.ADMITTED
        waiting = self._waiting
        if waiting[client] >= _WAITING_OF_A_CLIENT or waiting.total() >= _WAITING:
            return Verdict.BUSY
        waiting[client] += 1
        try:
            correct = await asyncio.get_running_loop().run_in_executor(
                self._thread, _is_correct, name, password, users
            )
        finally:
            waiting[client] -= 1
            if waiting[client] == 0:
                del waiting[client]
        if not correct:
            return Verdict.REFUSED
        self._correct[digest] = None
        if len(self._correct) > _REMEMBERED:
            self._correct.popitem(last=False)
        return Verdict.ADMITTED

    def _digest(self, name: bytes, password: bytes, users: Mapping[bytes, bytes]) -> bytes:
        parts = (name, users.get(name, b""), password)
        framed = b"".join(len(each).to_bytes(4, "big") + each for each in parts)
        return hmac.digest(self._key, framed, hashlib.sha256)


def parse(authorization: str | None) -> tuple[bytes, bytes] | None:
    """Name and password of a header `Basic …`; None for any other header."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


def _is_correct(name: bytes, password: bytes, users: Mapping[bytes, bytes]) -> bool:
    """Check the password against the hash of that name. Blocks, equally long for every name.

    The time of a check doubles with each step of a hash's cost. After a hash of cost c below the
    highest cost d, checks of dummy hashes take the rest of the time:
    2^c + (2^c + … + 2^(d-1)) = 2^d.
    """
    import bcrypt  # noqa: PLC0415 - most daemons ask for no password

    highest = max(_cost(each) for each in users.values())
    known = users.get(name)
    hashed = _dummy(highest) if known is None else known
    correct = bcrypt.checkpw(password[:_LONGEST_PASSWORD], hashed)
    for cost in range(_cost(hashed), highest):
        bcrypt.checkpw(b"", _dummy(cost))
    return correct and known is not None


def _cost(hashed: bytes) -> int:
    return int(hashed[4:6])


def _dummy(cost: int) -> bytes:
    """A hash of no known password."""
    return b"$2b$%02d$" % cost + b"." * 53
