"""Merges the values of all sources into one tree, with the origin of each value."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from exporter.config.reading.origin import GivenValue, Mistake, Origin
from exporter.config.schema.keys import Key, show

# Two keys for one secret: the one with the higher priority counts.
_ALTERNATIVES = (("api_key", "api_key_file"), ("hf_token", "hf_token_file"))
_TABLES = (("headers", "header_files"),)
"""The same for each key of a table."""


def file_of(key: Key) -> Key | None:
    """The key of the file that may hold the secret at `key`; None if no file may."""
    return _other(key, 0, 1)


def secret_of(key: Key) -> Key | None:
    """The key of the secret that is in the file at `key`; None if no secret is."""
    return _other(key, 1, 0)


def _other(key: Key, one: int, other: int) -> Key | None:
    for pairs, place in ((_ALTERNATIVES, len(key) - 1), (_TABLES, len(key) - 2)):
        for pair in pairs:
            if place >= 0 and key[place] == pair[one]:
                return (*key[:place], pair[other], *key[place + 1 :])
    return None


@dataclass(slots=True)
class Merged:
    """The tree of all given values (no defaults), and the origin of each key in it."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def get(self, key: Key) -> Any | None:
        """The value at `key`, None if none was given."""
        at: Any = self.tree
        for part in key:
            if isinstance(at, dict):
                at = at.get(part)
            elif isinstance(at, list) and isinstance(part, int) and part < len(at):
                at = at[part]
            else:
                return None
        return at

    def origin_of(self, key: Key) -> Origin | None:
        """The origin of the nearest key at or above `key` that was given."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                return self.origins[key[:length]]
        return None

    def put(self, given: GivenValue) -> None:
        """Add a value. Tables merge key by key; everything else replaces the old value."""
        holder = self._holder(given)
        if holder is not None:
            self._set(holder, given)

    def fill(self, given: GivenValue) -> None:
        """Put a value, unless it or its alternative already has a higher priority."""
        others = {given.key, *_alternatives_of(given.key)}
        if all(
            self._strength(key) < given.origin.priority
            for key in others
            if self.get(key) is not None
        ):
            self.put(given)

    def _strength(self, key: Key) -> int:
        origin = self.origin_of(key)
        return -1 if origin is None else origin.priority

    def _holder(self, given: GivenValue) -> Any | None:
        """The table or list for the last part of the key, created if it is missing."""
        at: Any = self.tree
        for depth, part in enumerate(given.key[:-1]):
            following = given.key[depth + 1]
            if not self._fits(at, part, given):
                return None
            child = self.get(given.key[: depth + 1])
            wanted = list if isinstance(following, int) else dict
            if not isinstance(child, wanted):
                child = self._new(wanted, given.key[: depth + 1], child, given.origin)
                _store(at, part, child)
            at = child
        return at if self._fits(at, given.key[-1], given) else None

    def _new(self, wanted: type, key: Key, there: Any, origin: Origin) -> Any:
        if there is not None:
            word = "a list" if wanted is list else "a table"
            self.mistakes.append(Mistake(self.origins[key].text, f"must be {word}", show(key)))
        self.origins[key] = origin
        return wanted()

    def _fits(self, at: Any, part: str | int, given: GivenValue) -> bool:
        if isinstance(at, dict) or (isinstance(part, int) and part <= len(at)):
            return True
        message = f"is beyond the list's end: the next index is {len(at)}"
        self.mistakes.append(Mistake(given.origin.text, message, show(given.key)))
        return False

    def _set(self, holder: Any, given: GivenValue) -> None:
        key, value, origin = given.key, given.value, given.origin
        if isinstance(value, dict):
            there = self.get(key)
            if not isinstance(there, dict):
                _store(holder, key[-1], {})
                self._forget_below(key)
                self.origins[key] = origin
            for name, each in value.items():
                self.put(GivenValue((*key, name), each, origin))
            return
        self._forget_below(key)
        self.origins[key] = origin
        _store(holder, key[-1], [] if isinstance(value, list) else value)
        if isinstance(value, list):
            for index, each in enumerate(value):
                self.put(GivenValue((*key, index), each, origin))
        self._drop_weaker_alternatives(key, origin)

    def _forget_below(self, key: Key) -> None:
        for each in [k for k in self.origins if k[: len(key)] == key]:
            del self.origins[each]

    def _drop_weaker_alternatives(self, key: Key, origin: Origin) -> None:
        for alternative in _alternatives_of(key):
            there = self.origins.get(alternative)
            if there is not None and there.priority < origin.priority:
                del self.origins[alternative]
                holder: Any = self.get(alternative[:-1])
                del holder[alternative[-1]]  # a table, as the alternative was given


def merge(givens: Iterable[GivenValue]) -> Merged:
    """Merge all values, lowest priority first."""
    merged = Merged()
    for given in sorted(givens, key=_order):
        merged.put(given)
    for key, origin in list(merged.origins.items()):
        file = file_of(key)
        if file is not None and file in merged.origins:
            message = f"is set together with {show(file)}: keep one of them"
            merged.mistakes.append(Mistake(origin.text, message, show(key)))
    return merged


def _order(given: GivenValue) -> tuple[Any, ...]:
    """By priority; within a source, a table before its keys, and indices in order."""
    return (given.origin.priority, [(isinstance(part, int), part) for part in given.key])


def _alternatives_of(key: Key) -> list[Key]:
    return [other for other in (file_of(key), secret_of(key)) if other is not None]


def _store(holder: Any, part: str | int, value: Any) -> None:
    if isinstance(holder, list) and part == len(holder):
        holder.append(value)
    else:
        holder[part] = value
