"""Translates errors of docker-py, its libraries and the connection into DockerError."""

from __future__ import annotations

import http.client
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import docker.errors
import requests
import urllib3.exceptions

from exporter.container.decide.records import DockerError, DockerProblem

if TYPE_CHECKING:
    from collections.abc import Iterator

# Raised by docker-py and here for an answer that does not have the form of Docker's API.
_MISREAD = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RecursionError),  # a time out of range; JSON nested without end
)
_LONGEST_QUOTE = 200  # characters
# RequestException is an OSError, and so is TimeoutError.
_OUTSIDE = (
    docker.errors.DockerException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    *_MISREAD,
)
_BAD_ARGUMENTS = (
    docker.errors.InvalidArgument,
    docker.errors.InvalidRepository,
    docker.errors.NullResource,
)
_TIMEOUTS = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
_CUT = (urllib3.exceptions.ProtocolError, http.client.IncompleteRead)
_GONE = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException)

# Docker has few status codes for the failures of a start; its message tells them apart. The first
# match counts.
_MESSAGES: dict[DockerProblem, tuple[str, ...]] = {
    DockerProblem.GPU_DRIVER_MISSING: (
        "could not select device driver",
        "nvidia-container-cli: initialization error",
        "unresolvable CDI devices",
        "failed to discover GPU vendor",
        "unknown or invalid runtime name: nvidia",
    ),
    DockerProblem.PORT_TAKEN: ("port is already allocated", "address already in use"),
    DockerProblem.NO_SPACE: ("no space left on device", "disk quota exceeded"),
    DockerProblem.IMAGE_NOT_FOUND: (
        "no such image",
        "pull access denied",
        "manifest unknown",
        "manifest for .* not found",
        "no matching manifest",
        "repository .* not found",
    ),
    DockerProblem.NOT_FOUND: ("no such container",),
    DockerProblem.BAD_REQUEST: ("network .* not found",),  # 404, yet the container is there
    DockerProblem.REGISTRY_UNREACHABLE: (
        '(Get|Head|Post) "?https?://',
        "toomanyrequests",
        "TLS handshake timeout",
        "i/o timeout",
        "net/http: request canceled",
    ),
}
_PATTERNS = {
    problem: re.compile("|".join(texts), re.IGNORECASE) for problem, texts in _MESSAGES.items()
}
_STATUS: dict[int, DockerProblem] = {
    400: DockerProblem.BAD_REQUEST,
    401: DockerProblem.PERMISSION_DENIED,
    403: DockerProblem.PERMISSION_DENIED,
    409: DockerProblem.CONFLICT,
    # From a proxy that does not reach Docker.
    502: DockerProblem.UNREACHABLE,
    503: DockerProblem.UNREACHABLE,
    504: DockerProblem.TIMEOUT,
}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise errors of Docker, its client and the connection as DockerError with their cause."""
    try:
        yield
    except _OUTSIDE as exc:
        problem, message = sort(exc)
        raise DockerError(problem, f"{doing}: {message}") from exc


def sort(exc: BaseException) -> tuple[DockerProblem, str]:
    """The problem that an exception shows, and Docker's message."""
    chain = tuple(_chain(exc))
    for each in chain:
        if isinstance(each, requests.HTTPError) and each.response is not None:
            message = _message_of(each.response)
            return sort_answer(each.response.status_code, message), message
    return _sort_wire(chain), _message_for(chain)


def sort_answer(status: int | None, message: str) -> DockerProblem:
    """The problem in an error of Docker's. `status` is None for an error within a stream.

    The message counts more than the status, except for a refusal, which can be a proxy's.
    """
    if status not in {401, 403}:
        for problem, pattern in _PATTERNS.items():
            if pattern.search(message):
                return problem
    return _STATUS.get(status or 0, DockerProblem.API_ERROR)


def _sort_wire(chain: tuple[BaseException, ...]) -> DockerProblem:
    for kinds, problem in (
        (PermissionError, DockerProblem.PERMISSION_DENIED),
        (_TIMEOUTS, DockerProblem.TIMEOUT),
        (_BAD_ARGUMENTS, DockerProblem.BAD_REQUEST),
        (_CUT, DockerProblem.UNREACHABLE),
        # Before _GONE: requests' JSONDecodeError is an OSError, but Docker answered.
        (_MISREAD, DockerProblem.API_ERROR),
        (_GONE, DockerProblem.UNREACHABLE),
    ):
        if any(isinstance(each, kinds) for each in chain):
            return problem
    return DockerProblem.API_ERROR


def _message_for(chain: tuple[BaseException, ...]) -> str:
    """The operating system's message ("No such file or directory"), else the library's."""
    for each in chain:
        if isinstance(each, OSError) and each.strerror:
            return each.strerror
    outermost = chain[0]
    if any(isinstance(each, _CUT) for each in chain):
        return "the connection broke"
    if any(isinstance(each, _TIMEOUTS) for each in chain):
        return "no answer in time"
    if isinstance(outermost, _MISREAD):
        quote = str(outermost)[:_LONGEST_QUOTE]
        return f"not an answer of Docker ({type(outermost).__name__}: {quote})"
    return str(outermost) or type(outermost).__name__


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """An exception and all that it wraps, the outermost first.

    requests and urllib3 keep the inner one in `args` or `reason`, Python in `__cause__` and
    `__context__`.
    """
    seen: set[int] = set()
    waiting: list[object] = [exc]
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]


def _message_of(response: requests.Response) -> str:
    try:
        answer = response.json()
        return str(answer["message"])
    except (ValueError, KeyError, TypeError, OSError, urllib3.exceptions.HTTPError):
        # A proxy's page, or no body.
        return f"{response.status_code} {response.reason}"
