"""Server-sent events, incrementally: bytes in, event data out, with the place where each ended.

Pure. Follows the WHATWG rules as far as an OpenAI-style stream goes: lines end in LF, CR LF or CR,
`data` lines of one event are joined with LF, a blank line ends the event, comments and other
fields are skipped, a byte order mark at the start is dropped. An event that the stream leaves
unfinished is not delivered.
"""

from __future__ import annotations

from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """The data of one event; `end` is the count of stream bytes up to the end of its last line.

    The blank line after it is not counted: what matters is when the data was there.
    """

    data: bytes
    end: int


class Decoder:
    """Feed it the body as it comes; it keeps what is incomplete.

    `skipped` counts the lines that belong to no event, such as comments.
    """

    def __init__(self) -> None:
        self._pending = b""
        self._start = 0  # stream offset of the first pending byte
        self._data: list[bytes] = []
        self._data_end = 0
        self.skipped = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completed, in order."""
        events: list[Event] = []
        buffer = self._pending + chunk
        offset = self._skip_mark(buffer)
        if offset is None:
            self._pending = buffer
            return events
        while (line_end := _line_end(buffer, offset)) is not None:
            end, following = line_end
            if end > offset:
                self._take_line(buffer[offset:end], self._start + following)
            elif self._data:
                events.append(Event(b"\n".join(self._data), self._data_end))
                self._data = []
            else:
                self.skipped += 1
            offset = following
        self._pending = buffer[offset:]
        self._start += offset
        return events

    def _skip_mark(self, buffer: bytes) -> int | None:
        """Where to go on in `buffer`: past a byte order mark, None while it may yet become one."""
        if self._start:
            return 0
        if buffer.startswith(_BOM):
            return len(_BOM)
        return None if _BOM.startswith(buffer) else 0

    def _take_line(self, line: bytes, end: int) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_end = end
        else:
            self.skipped += 1


def _line_end(buffer: bytes, offset: int) -> tuple[int, int] | None:
    """Where the line at `offset` ends and the next begins; None while it is incomplete."""
    line_feed = buffer.find(b"\n", offset)
    carriage_return = buffer.find(b"\r", offset, line_feed if line_feed >= 0 else len(buffer))
    if carriage_return < 0:
        return None if line_feed < 0 else (line_feed, line_feed + 1)
    if carriage_return + 1 == len(buffer):
        return None  # an LF may follow in the next chunk
    width = 2 if buffer[carriage_return + 1] == ord("\n") else 1
    return carriage_return, carriage_return + width
