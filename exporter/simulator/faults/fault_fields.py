"""The base of all faults: a record whose fields declare their allowed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 1_000_000
UNTIL_CLEARED = "every one until it is cleared"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, or a special behaviour of a server."""

    name: ClassVar[str]


def whole(default: int | None, low: int, high: int, *, none: str | None = None) -> Any:
    """A field for a whole number; `none` says what null means, if it is allowed."""
    allowed = f"a whole number from {low} to {high}" + (f", or null: {none}" if none else "")

    def check(value: object) -> bool:
        if value is None:
            return none is not None
        return type(value) is int and low <= value <= high

    return _declared(default, allowed, check)


def number(default: float | None, low: float, high: float, *, none: str | None = None) -> Any:
    """A field for any number."""
    allowed = f"a number from {low:g} to {high:g}" + (f", or null: {none}" if none else "")

    def check(value: object) -> bool:
        if value is None:
            return none is not None
        return type(value) in (int, float) and low <= float(str(value)) <= high

    return _declared(default, allowed, check)


def choice(default: str, *choices: str) -> Any:
    """A field for one of a few words."""
    allowed = " or ".join(f'"{one}"' for one in choices)
    return _declared(default, allowed, lambda value: value in choices)


def _declared(default: object, allowed: str, check: Callable[[object], bool]) -> Any:
    return field(default=default, metadata={"allowed": allowed, "check": check})
