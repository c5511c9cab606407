"""A tokenizer without a vocabulary file: text to ids and back, the same for every run.

It splits text into words with the space before them, numbers, punctuation and white space, and
each of those into pieces of at most four ASCII characters. An id encodes the characters of its
piece, so decoding restores any text. Other characters have one id per UTF-8 byte.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

IM_START, IM_END, TOOL_OPEN, TOOL_CLOSE, START = 1, 2, 3, 4, 5
SPECIAL: dict[str, int] = {
    "<s>": START,
    "<|im_start|>": IM_START,
    "<|im_end|>": IM_END,
    "<tool_call>": TOOL_OPEN,
    "</tool_call>": TOOL_CLOSE,
}
_SPECIAL_TEXT = {number: text for text, number in SPECIAL.items()}
_SPLIT = re.compile("(" + "|".join(re.escape(text) for text in SPECIAL) + ")")
_PIECES = re.compile(r" ?[A-Za-z]+| ?[0-9]+| +(?= )|\n+|[!-/:-@\[-`{-~]+|.", re.DOTALL)
_PIECE_LENGTH = 4
_ASCII_BITS = 7
_FIRST_BYTE = 16  # ids 16 to 271 are single bytes
_FIRST_PIECE = _FIRST_BYTE + 256


def encode(text: str) -> list[int]:
    """The ids of `text`. Names of special tokens in it become these tokens, as in vLLM."""
    ids: list[int] = []
    for part in _SPLIT.split(text):
        if part in SPECIAL:
            ids.append(SPECIAL[part])
        else:
            for run in _PIECES.findall(part):
                ids.extend(_encode_run(run))
    return ids


def decode(ids: Iterable[int], *, special: bool = True) -> str:
    """The text of `ids`; without special tokens if `special` is False, as in an answer."""
    kept = (number for number in ids if special or number not in _SPECIAL_TEXT)
    return b"".join(map(to_bytes, kept)).decode("utf-8", errors="replace")


def to_bytes(number: int) -> bytes:
    if number in _SPECIAL_TEXT:
        return _SPECIAL_TEXT[number].encode()
    if number < _FIRST_BYTE:
        return b""
    if number < _FIRST_PIECE:
        return bytes([number - _FIRST_BYTE])
    return _unpack(number - _FIRST_PIECE)


def strings(ids: Sequence[int]) -> list[str]:
    """Each id's own text, for `return_token_strs`."""
    return [to_bytes(number).decode("utf-8", errors="replace") for number in ids]


def _encode_run(run: str) -> Iterator[int]:
    if not run.isascii():
        for byte in run.encode("utf-8", errors="replace"):
            yield _FIRST_BYTE + byte
        return
    for start in range(0, len(run), _PIECE_LENGTH):
        yield _FIRST_PIECE + _pack(run[start : start + _PIECE_LENGTH])


def _pack(piece: str) -> int:
    packed = 1  # a leading one, so that the length is in the number
    for character in piece:
        packed = packed << _ASCII_BITS | ord(character)
    return packed


def _unpack(packed: int) -> bytes:
    characters = bytearray()
    while packed > 1:
        characters.append(packed & (1 << _ASCII_BITS) - 1)
        packed >>= _ASCII_BITS
    return bytes(reversed(characters))
