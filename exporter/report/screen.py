"""The console for a terminal, a pipe or a file: its width and its characters.

rich decides on colour: none without a terminal or with NO_COLOR.
"""

from __future__ import annotations

import io
import os
import re
from typing import IO, TYPE_CHECKING, TextIO, cast

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN_WIDTH = 80
"""Columns without a terminal and without COLUMNS."""

_IN_ASCII = str.maketrans(
    dict.fromkeys("\u2013\u2014\u2212\u2500\u2592", "-")  # dashes, minus, rule, shade
    | dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"')
    | {"\u2026": "...", "\u00b7": ".", "\u2192": "->", "\u00d7": "x", "\u00a0": " "}
    | {"\u00b1": "+/-", "\u00b5": "u"}
    | {"\u2588": "#", "\u2501": "=", "\u2591": "="}  # full block, heavy line, light shade
)


_SPACES_AT_END = re.compile(r" +(?=\n)")


def console_on(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Console:
    """A console on `stream` that writes only characters that the stream can show."""
    file: IO[str] = (
        stream if accepts_utf8(stream, environ) else cast("IO[str]", _AsciiStream(stream))
    )
    columns = environ.get("COLUMNS", "")
    width: int | None = int(columns) if columns.isdecimal() and int(columns) > 0 else PLAIN_WIDTH
    if stream.isatty():
        width = None  # rich reads it from the terminal
    return _PipeConsole(file=file, width=width, highlight=False, markup=False, emoji=False)


def accepts_utf8(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the reader can show more than ASCII.

    With LC_ALL=C Python writes UTF-8 (PEP 540), but the terminal expects ASCII. Without any locale
    Python's choice counts.
    """
    locale = next((environ[name] for name in _LOCALE if environ.get(name)), "")
    if locale in {"C", "POSIX"}:
        return False
    return (stream.encoding or "").lower().replace("-", "") == "utf8"


_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")  # the first that is set counts (POSIX)


class _PipeConsole(Console):
    """A console that reports a closed pipe to the command."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


class _AsciiStream(io.TextIOBase):
    """Writes ASCII only. A character without a replacement becomes "?"."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "ascii"  # rich then draws boxes and bars in ASCII

    def write(self, text: str) -> int:
        shown = text.translate(_IN_ASCII).encode("ascii", "replace").decode("ascii")
        if len(shown) > len(text):  # a line that was as wide as the terminal would be wrapped
            shown = _SPACES_AT_END.sub("", shown)
        self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
