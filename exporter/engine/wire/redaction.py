"""Takes keys, the values of headers and conversations out of error messages.

Servers quote what they refuse: a proxy quotes a header, FastAPI the whole body with
the conversation. Error messages are logged, exported and shown, so they must contain neither a
secret nor any prompt or answer. A quote can be cut, so parts are removed, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"
_SHORTEST_OF_KEY = 8  # characters; a shorter part of a key may be in a message by chance
_LONG_VALUE = 16  # characters; a shorter value of a header can be a name, such as "production"
_SHORTEST_OF_PROMPT = 24  # the same for a conversation, which has common words


def without_sent(text: str, key: str | None, sent: Any = None, headers: Iterable[str] = ()) -> str:
    """`text` without parts of the key, of the strings in `sent` (JSON) and of the values of the
    user's `headers`.

    A short value of a header is removed only as a whole word: it may be a 1.
    """
    if key:
        text = _without(text.replace(key, MASK), key, _SHORTEST_OF_KEY)
    for value in headers:
        if len(value) < _SHORTEST_OF_KEY:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASK, text)
        else:
            text = _without(text.replace(value, MASK), value, _SHORTEST_OF_KEY)
    for each in _strings(sent):
        text = _without(text, each, _SHORTEST_OF_PROMPT)
    return text


def page_without(page: bytes, key: str | None, headers: Iterable[str] = ()) -> bytes:
    """The page without the key and the values of the user's headers, unless one is so short that it
    may be there by chance.
    """
    secrets = [key] if key is not None and len(key) >= _SHORTEST_OF_KEY else []
    for secret in (*secrets, *(value for value in headers if len(value) >= _LONG_VALUE)):
        page = page.replace(secret.encode(), MASK.encode())
    return page


def _without(text: str, secret: str, shortest: int) -> str:
    """`text` with a mask for each run of at least `shortest` characters that is also in `secret`.

    Each such run contains one of the pieces of half that length that `text` is cut into. So only
    these pieces are searched for: a secret can be a conversation of half a megabyte.
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
    """Every string in JSON except the keys of objects."""
    if isinstance(sent, str):
        yield sent
    elif isinstance(sent, Mapping):
        yield from _strings(list(sent.values()))
    elif isinstance(sent, Iterable) and not isinstance(sent, bytes):
        for each in sent:
            yield from _strings(each)
