"""Decodes server-sent events: bytes in, event data out, with the stream offset of each end.

Follows the WHATWG rules that an OpenAI-style stream needs: lines end in LF, CR LF or CR, the `data`
lines of one event are joined with LF, and a blank line ends the event. Comments, other fields and a
byte order mark at the start are skipped. An unfinished event at the end is dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n?|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """The data of one event; `end` is the number of stream bytes up to the end of its last line.

    The blank line after it does not count: the data was there before it.
    """

    data: bytes
    end: int


class Decoder:
    """Decodes a body that comes in parts, and keeps what is incomplete.

    It looks at each byte once, for any size of parts and lines. `skipped` counts the lines that
    belong to no event, such as comments.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._searched = 0  # this many pending bytes contain no line end
        self._start = 0  # stream offset of the first pending byte
        self._data: list[bytes] = []
        self._data_end = 0
        self.skipped = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completed, in order."""
        events: list[Event] = []
        self._pending += chunk
        buffer = self._pending
        offset = self._skip_mark()
        if offset is None:
            return events
        searched = max(offset, self._searched)
        while (line_end := _line_end(buffer, searched)) is not None:
            end, searched = line_end
            if end > offset:
                self._take_line(bytes(buffer[offset:end]), self._start + searched)
            elif self._data:
                events.append(Event(b"\n".join(self._data), self._data_end))
                self._data = []
            else:
                self.skipped += 1
            offset = searched
        self._searched = len(buffer) - offset - buffer.endswith(b"\r")
        self._start += offset
        del buffer[:offset]
        return events

    def _skip_mark(self) -> int | None:
        """The offset after a byte order mark; None while the bytes may still become one."""
        if self._start:
            return 0
        if self._pending.startswith(_BOM):
            return len(_BOM)
        return None if _BOM.startswith(self._pending) else 0

    def _take_line(self, line: bytes, end: int) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_end = end
        else:
            self.skipped += 1


def _line_end(buffer: bytearray, searched: int) -> tuple[int, int] | None:
    """The end of the line that continues at `searched`, and the start of the next; None: no end."""
    found = _LINE_END.search(buffer, searched)
    if found is None or (found[0] == b"\r" and found.end() == len(buffer)):
        return None  # after a CR at the end an LF may follow in the next chunk
    return found.span()
