"""Reads the query parameters of a request."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

MAX_LIMIT = 1000
"""Sessions that one answer of the API holds at most."""

if TYPE_CHECKING:
    from collections.abc import Collection

    from aiohttp import web

_NAMED = 20  # a list of a whole fleet would make every error long


class BadRequestError(Exception):
    """The request is wrong, for example a parameter of it. The text says what is allowed."""


class NoSuchTargetError(BadRequestError):
    """The requested target does not exist. The text names targets that do."""


def asked_target(request: web.Request, names: Collection[str]) -> str | None:
    """The value of the parameter `target`, which is one of `names`; None without it."""
    asked = _single(request, "target")
    if asked is None:
        return None
    if not asked:
        raise BadRequestError(f"target: is empty; there are: {some_of(names)}")
    if asked not in names:
        raise NoSuchTargetError(
            f"target: there is no target {asked!r}; there are: {some_of(names)}"
        )
    return asked


def some_of(names: Collection[str]) -> str:
    """The names, or the first of them and the number of the others."""
    first = ", ".join(islice(names, _NAMED))
    more = len(names) - _NAMED
    return f"{first} and {more} more" if more > 0 else first or "none"


def whole_number(request: web.Request, name: str, most: int) -> int | None:
    """The value of a parameter, from 1 to `most`; None without it."""
    given = _single(request, name)
    if given is None:
        return None
    if not re.fullmatch("[0-9]{1,9}", given) or not 1 <= int(given) <= most:
        raise BadRequestError(f"{name}: {given!r} is not a whole number from 1 to {most}")
    return int(given)


def one_of(request: web.Request, name: str, allowed: tuple[str, ...]) -> str | None:
    """The value of a parameter, which is one of `allowed`; None without it."""
    given = _single(request, name)
    if given is not None and given not in allowed:
        raise BadRequestError(f"{name}: {given!r} is not {' or '.join(allowed)}")
    return given


def allow_only(request: web.Request, *allowed: str) -> None:
    """Raise `BadRequestError` for any other parameter, and for one that is given twice."""
    names = sorted(set(request.query) - set(allowed))
    if names:
        expected = " and ".join(sorted(allowed)) or "none"
        raise BadRequestError(f"{names[0]}: unknown parameter; allowed: {expected}")
    for name in allowed:
        _single(request, name)


def _single(request: web.Request, name: str) -> str | None:
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise BadRequestError(f"{name}: given more than once")
    return given[0] if given else None
