"""Translates errors of aiohttp and of the system, and redirects, into failures."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import aiohttp

from exporter.engine.wire.refusal import error_text
from exporter.model.failure import Failure, FailureReason

if TYPE_CHECKING:
    from yarl import URL

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_REDIRECTS = (301, 302, 303, 307, 308)


def connection_failure(error: BaseException, *, sent: bool = False) -> Failure:
    """The failure for an error of aiohttp or of the operating system."""
    text = error_text(str(error) or type(error).__name__)
    match error:
        case OSError(errno=number) if number in _NO_DESCRIPTOR:
            return Failure(FailureReason.NO_DESCRIPTORS, text)
        case aiohttp.ConnectionTimeoutError():
            return Failure(FailureReason.CONNECT_TIMEOUT, text)
        case TimeoutError():
            return Failure(FailureReason.TURN_TIMEOUT, "no answer in time")
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return Failure(
                FailureReason.CONNECTION_REFUSED, f"nothing listens at {error.host}:{error.port}"
            )
        case aiohttp.ClientConnectorError() | aiohttp.ClientConnectorCertificateError():
            return Failure(FailureReason.CONNECT_FAILED, text)
        case aiohttp.InvalidURL() | ValueError():
            return Failure(FailureReason.CONNECT_FAILED, f"not a usable URL: {text}")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | OSError():
            where = "while waiting for the answer" if sent else "before the request was sent"
            return Failure(FailureReason.STREAM_CUT, f"the connection ended {where}: {text}")
        case _:
            return Failure(FailureReason.PROTOCOL, text)


def redirect_of(response: aiohttp.ClientResponse) -> URL | None:
    """The URL that an answer redirects to; None without a redirect."""
    if response.status not in _REDIRECTS:
        return None
    location = response.headers.get("Location")
    if location is None:
        return None
    try:
        return response.url.join(type(response.url)(location))
    except ValueError:
        return None


def redirect_failure(status: int, onward: URL) -> Failure:
    """The failure for a redirect to `onward`: keys and prompts must reach only the target."""
    try:
        place = str(onward.origin())
    except ValueError:  # no http at all
        place = onward.scheme
    return Failure(
        FailureReason.PROTOCOL,
        error_text(f"HTTP {status}: redirected to {place}, which is not followed; set url to it"),
    )
