"""The parameters of a request, and the target that it names."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

MAX_LIMIT = 1000
"""Sessions that one answer of the API holds at most."""

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp import web

_NAMED = 20  # of a fleet nobody reads more, and each answer would carry them


class BadQueryError(Exception):
    """A query parameter is not what it must be; the text says which, and what is allowed."""


class NoSuchTargetError(BadQueryError):
    """The target that is asked for is not there; the text says which are."""


def asked_target(request: web.Request, names: Collection[str]) -> str | None:
    """The value of `target`, which is one of `names`; None where there is no such parameter."""
    asked = _single(request, "target")
    if asked is None:
        return None
    if not asked:
        raise BadQueryError(f"target: is empty; there are: {some_of(names)}")
    if asked not in names:
        raise NoSuchTargetError(
            f"target: there is no target {asked!r}; there are: {some_of(names)}"
        )
    return asked


def some_of(names: Collection[str]) -> str:
    """The names, or the first and how many more there are."""
    first = ", ".join(islice(names, _NAMED))
    more = len(names) - _NAMED
    return f"{first} and {more} more" if more > 0 else first or "none"


def whole_number(request: web.Request, name: str, most: int) -> int | None:
    """From 1 to `most`; None where there is no such parameter."""
    given = _single(request, name)
    if given is None:
        return None
    if not re.fullmatch("[0-9]{1,9}", given) or not 1 <= int(given) <= most:
        raise BadQueryError(f"{name}: {given!r} is not a whole number from 1 to {most}")
    return int(given)


def only(request: web.Request, *allowed: str) -> None:
    """Raise where there is a parameter that is not allowed, or one twice."""
    names = sorted(set(request.query) - set(allowed))
    if names:
        expected = " and ".join(sorted(allowed)) or "none"
        raise BadQueryError(f"{names[0]}: unknown parameter; allowed: {expected}")
    for name in allowed:
        _single(request, name)


def _single(request: web.Request, name: str) -> str | None:
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise BadQueryError(f"{name}: given more than once")
    return given[0] if given else None
