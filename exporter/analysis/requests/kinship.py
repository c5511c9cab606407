"""Which earlier request a request continues, and which conversation it belongs to.

A client may change what it sends again: a time, the order of keys, a shorter history. So messages
are compared by the words in them, without what changes by itself, and order alone proves nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.model.recorded import Message, RecordedRequest

_OPENING: Final = ("system", "developer")
_WORD: Final = re.compile(r"[^\W_]+")
_CALENDAR: Final = frozenset(
    [
        "mon",
        "monday",
        "tue",
        "tues",
        "tuesday",
        "wed",
        "wednesday",
        "thu",
        "thursday",
        "fri",
        "friday",
        "sat",
        "saturday",
        "sun",
        "sunday",
        "jan",
        "january",
        "feb",
        "february",
        "mar",
        "march",
        "apr",
        "april",
        "may",
        "jun",
        "june",
        "jul",
        "july",
        "aug",
        "august",
        "sep",
        "sept",
        "september",
        "oct",
        "october",
        "nov",
        "november",
        "dec",
        "december",
        "am",
        "pm",
        "utc",
        "gmt",
    ]
)
_REMEMBERED = 4
"""The latest requests with a message that are looked at."""
_LOOKED_UP, _FIRST = 6, 2
"""Known messages of a request, from its end and from its start, by which others are found."""
_SAME = 0.2
"""Of the shorter one's characters: what two requests of one conversation share at least."""
_LATEST = 8
"""The latest requests are looked at in any case: they may share tools and no message."""

Key = tuple[str, int]


@lru_cache(maxsize=1 << 16)
def kinship_key(message: Message) -> Key:
    """Equal for messages that differ only in values, white space, the order of keys or reasoning.

    The role, and a hash of the words of the message without numbers, ids and the calendar.
    """
    words: Counter[str] = Counter()
    for name, text in message.fields:
        if name != "reasoning":
            words.update(_words(text))
    return message.role, hash(frozenset(words.items()))


def _words(text: str) -> Iterator[str]:
    for word in map(str.lower, _WORD.findall(text)):
        if word.isalpha() and word not in _CALENDAR:
            yield word


@dataclass(frozen=True, slots=True)
class Kinship:
    """The earlier request that a request continues, and all those that it may share blocks with.

    `parent` is None if it shares no message with any. `opening`: the two share only the system
    prompt, so they are different conversations.
    """

    parent: int | None
    opening: bool
    candidates: frozenset[int]


@dataclass(slots=True)
class Kin:
    """All requests so far, by their messages."""

    _keys: list[frozenset[Key]] = field(default_factory=list)
    _weights: dict[Key, int] = field(default_factory=dict)
    _holders: defaultdict[Key, deque[int]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_REMEMBERED))
    )

    def add(self, request: RecordedRequest) -> Kinship:
        """Add the next request, and look for those before it that it is related to."""
        keys = [kinship_key(message) for message in request.messages]
        for key, message in zip(keys, request.messages, strict=True):
            self._weights.setdefault(key, 1 + sum(len(text) for _, text in message.fields))
        own = frozenset(keys)
        found = self._related(keys, own)
        index = len(self._keys)
        self._keys.append(own)
        for key in own:
            self._holders[key].append(index)
        return found

    def _related(self, keys: list[Key], own: frozenset[Key]) -> Kinship:
        known = [key for key in keys if key in self._holders]
        looked_up = (*known[-_LOOKED_UP:], *known[:_FIRST])
        kin = {index for key in looked_up for index in self._holders[key]}
        latest = range(max(0, len(self._keys) - _LATEST), len(self._keys))
        parent = max(kin, key=lambda index: (self._shared(own, index), index), default=None)
        common = frozenset() if parent is None else own & self._keys[parent]
        opening = self._weight(common) < _SAME * min(
            self._weight(own), 0 if parent is None else self._weight(self._keys[parent])
        )
        return Kinship(parent, opening, frozenset(kin.union(latest)))

    def _weight(self, keys: frozenset[Key]) -> int:
        """The characters of messages, without those that open many conversations."""
        return sum(self._weights[key] for key in keys if key[0] not in _OPENING)

    def _shared(self, own: frozenset[Key], index: int) -> int:
        """The characters of the messages that a request shares with an earlier one."""
        return sum(self._weights[key] for key in own & self._keys[index])
