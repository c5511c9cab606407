"""Terminals and files to write to: how wide, with which characters, in colour or not.

Colour is rich's matter: it goes where the stream is no terminal, and NO_COLOR turns it off.
"""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, TextIO, cast

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN_WIDTH = 80
"""Columns where there is no terminal to ask and COLUMNS says nothing."""

_IN_ASCII = str.maketrans(
    dict.fromkeys("\u2013\u2014\u2212\u2500\u2592", "-")  # dashes, minus, rule, shade
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"')
    | {"\u2026": "...", "\u00b7": ".", "\u2192": "->", "\u00d7": "x", "\u00a0": " "}
    | {"\u2588": "#", "\u2501": "="}  # full block, heavy line
)


def screen(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Console:
    """A console on `stream` that writes only what the stream can show."""
    file: IO[str] = stream if speaks_utf8(stream, environ) else cast("IO[str]", AsciiOnly(stream))
    columns = environ.get("COLUMNS", "")
    width: int | None = int(columns) if columns.isdecimal() and int(columns) > 0 else PLAIN_WIDTH
    if stream.isatty():
        width = None  # rich asks the terminal
    return _Screen(file=file, width=width, highlight=False, markup=False, emoji=False)


def speaks_utf8(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the other end shows more than ASCII.

    Python writes UTF-8 under LC_ALL=C too (PEP 540), which is not what a terminal that was told
    so expects; where no locale is set at all, Python's choice stands.
    """
    locale = next((environ[name] for name in _LOCALE if environ.get(name)), "")
    if locale in {"C", "POSIX"}:
        return False
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")  # the first that is set counts, as in POSIX


class _Screen(Console):
    """A console whose reader may leave early; the command decides what that means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


class AsciiOnly(io.TextIOBase):
    """Writes to a stream that shows no more than ASCII; what has no likeness becomes "?"."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "ascii"  # rich draws its boxes and bars accordingly

    def write(self, text: str) -> int:
        shown = text.translate(_IN_ASCII).encode("ascii", "replace").decode("ascii")
        self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
