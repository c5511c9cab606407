"""Values of many sources put together in one tree, with the origin of each."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from exporter.config.reading.origin import Given, Mistake, Place
from exporter.config.schema.keys import Key, show

# Two ways to give one secret: whichever comes from the stronger source counts.
RIVALS = (("api_key", "api_key_file"), ("hf_token", "hf_token_file"))


@dataclass(slots=True)
class Merged:
    """The tree of what was given (no defaults), and for each key in it the place it came from."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
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

    def place_of(self, key: Key) -> Place | None:
        """The place of the nearest key at or above `key` that was given."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return None

    def put(self, given: Given) -> None:
        """Add a value; tables are merged key by key, everything else replaces what was there."""
        holder = self._holder(given)
        if holder is not None:
            self._set(holder, given)

    def fill(self, given: Given) -> None:
        """Put a value unless a stronger source has given one, also as the other of two rivals."""
        others = {given.key, *_rivals_of(given.key)}
        if all(
            self._strength(key) < given.place.rung for key in others if self.get(key) is not None
        ):
            self.put(given)

    def _strength(self, key: Key) -> int:
        place = self.place_of(key)
        return -1 if place is None else place.rung

    def _holder(self, given: Given) -> Any | None:
        """The table or list that the last part of the key belongs into, made if need be."""
        at: Any = self.tree
        for depth, part in enumerate(given.key[:-1]):
            following = given.key[depth + 1]
            if not self._fits(at, part, given):
                return None
            child = self.get(given.key[: depth + 1])
            wanted = list if isinstance(following, int) else dict
            if not isinstance(child, wanted):
                child = self._new(wanted, given.key[: depth + 1], child, given.place)
                _store(at, part, child)
            at = child
        return at if self._fits(at, given.key[-1], given) else None

    def _new(self, wanted: type, key: Key, there: Any, place: Place) -> Any:
        if there is not None:
            word = "a list" if wanted is list else "a table"
            self.mistakes.append(Mistake(self.places[key].text, f"must be {word}", show(key)))
        self.places[key] = place
        return wanted()

    def _fits(self, at: Any, part: str | int, given: Given) -> bool:
        if isinstance(at, dict) or (isinstance(part, int) and part <= len(at)):
            return True
        message = f"is beyond the list's end: the next index is {len(at)}"
        self.mistakes.append(Mistake(given.place.text, message, show(given.key)))
        return False

    def _set(self, holder: Any, given: Given) -> None:
        key, value, place = given.key, given.value, given.place
        if isinstance(value, dict):
            there = self.get(key)
            if not isinstance(there, dict):
                _store(holder, key[-1], {})
                self._forget_below(key)
                self.places[key] = place
            for name, each in value.items():
                self.put(Given((*key, name), each, place))
            return
        self._forget_below(key)
        self.places[key] = place
        _store(holder, key[-1], [] if isinstance(value, list) else value)
        if isinstance(value, list):
            for index, each in enumerate(value):
                self.put(Given((*key, index), each, place))
        self._drop_weaker_rivals(holder, key, place)

    def _forget_below(self, key: Key) -> None:
        for each in [k for k in self.places if k[: len(key)] == key]:
            del self.places[each]

    def _drop_weaker_rivals(self, holder: Any, key: Key, place: Place) -> None:
        for rival in _rivals_of(key):
            there = self.places.get(rival)
            if there is not None and there.rung < place.rung:
                del self.places[rival]
                del holder[rival[-1]]


def merge(givens: Iterable[Given]) -> Merged:
    """Put the values together, the weakest source first."""
    merged = Merged()
    for given in sorted(givens, key=_order):
        merged.put(given)
    for key, place in list(merged.places.items()):
        for first, second in RIVALS:
            if key[-1] == first and (*key[:-1], second) in merged.places:
                other = show((*key[:-1], second))
                message = f"is set together with {other}: keep one of them"
                merged.mistakes.append(Mistake(place.text, message, show(key)))
    return merged


def _order(given: Given) -> tuple[Any, ...]:
    """By strength; within a source a table before what is in it, and indices in order."""
    return (given.place.rung, [(isinstance(part, int), part) for part in given.key])


def _rivals_of(key: Key) -> list[Key]:
    pairs = [*RIVALS, *((second, first) for first, second in RIVALS)]
    return [(*key[:-1], second) for first, second in pairs if key[-1] == first]


def _store(holder: Any, part: str | int, value: Any) -> None:
    if isinstance(holder, list) and part == len(holder):
        holder.append(value)
    else:
        holder[part] = value
