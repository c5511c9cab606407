"""What was said to and by an engine, taken out of what it says of a failure.

Servers quote what they refuse: a proxy the header with the key, FastAPI the whole body with the
conversation in it. What an engine says of a failure is logged, exported and shown, so neither that
nor what it answered may be in it. A quote can be cut short, so parts are looked for too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"
_SHORTEST_OF_KEY = 8  # characters of a key that may stand in a message by chance, and no more
_SHORTEST_OF_PROMPT = 24  # the same of a conversation, whose words are anybody's


def without_sent(text: str, key: str | None, sent: Any = None) -> str:
    """`text` without what it has in common with the key and with the strings in `sent` (JSON)."""
    if key:
        text = _without(text.replace(key, MASK), key, _SHORTEST_OF_KEY)
    for each in _strings(sent):
        text = _without(text, each, _SHORTEST_OF_PROMPT)
    return text


def page_without(page: bytes, key: str | None) -> bytes:
    """A page without the key in it, unless that is so short that it is there by chance."""
    if key is None or len(key) < _SHORTEST_OF_KEY:
        return page
    return page.replace(key.encode(), MASK.encode())


def _without(text: str, secret: str, shortest: int) -> str:
    """`text` with a mask for every run of at least `shortest` characters that `secret` has too.

    Such a run covers one of the pieces of half that length which `text` is cut into, so only these
    are looked for: a secret can be a conversation of half a megabyte.
    """
    piece = shortest // 2
    kept: list[str] = []
    done = 0
    for start in range(0, len(text) - piece + 1, piece):
        if start < done or text[start : start + piece] not in secret:
            continue
        first, end = start, start + piece
        while end < len(text) and text[first : end + 1] in secret:
            end += 1
        while first > done and text[first - 1 : end] in secret:
            first -= 1
        if end - first >= shortest:
            kept += [text[done:first], MASK]
            done = end
    return "".join([*kept, text[done:]])


def _strings(sent: Any) -> Iterator[str]:
    """Every string in JSON, keys apart."""
    if isinstance(sent, str):
        yield sent
    elif isinstance(sent, Mapping):
        yield from _strings(list(sent.values()))
    elif isinstance(sent, Iterable) and not isinstance(sent, bytes):
        for each in sent:
            yield from _strings(each)
