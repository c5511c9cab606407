"""The target that a request names."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

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
    asked = request.query.getall("target", [])
    if not asked:
        return None
    if len(asked) > 1:
        raise BadQueryError("target: given more than once")
    if not asked[0]:
        raise BadQueryError(f"target: is empty; there are: {some_of(names)}")
    if asked[0] not in names:
        raise NoSuchTargetError(
            f"target: there is no target {asked[0]!r}; there are: {some_of(names)}"
        )
    return asked[0]


def some_of(names: Collection[str]) -> str:
    """The names, or the first and how many more there are."""
    first = ", ".join(islice(names, _NAMED))
    more = len(names) - _NAMED
    return f"{first} and {more} more" if more > 0 else first or "none"
