"""Runs a command in a terminal of its own, and keeps what it writes."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import re
import struct
import sys
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0  # seconds; a bound for what takes a few
UTF8 = {"LANG": "C.UTF-8", "TERM": "xterm-256color"}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LOG_IN = "import os, sys; os.login_tty(os.open(sys.argv[1], os.O_RDWR)); os.execv(sys.argv[2], sys.argv[2:])"
ERASE = "\x1b[2K"


class Terminal:
    """A terminal of `columns`, and what was written to it so far."""

    def __init__(self, columns: int) -> None:
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.written = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    async def read(self) -> bool:
        """Read the new output; False when no process has the terminal open any more."""
        try:
            data = await asyncio.to_thread(os.read, self.master, 65536)
        except OSError:  # EIO: the last process with this terminal has ended
            return False
        self.written += self._decoder.decode(data)
        return bool(data)

    def leave(self) -> None:
        """Close our side: the terminal then ends with its process."""
        if self.slave >= 0:
            os.close(self.slave)
        self.slave = -1

    def type(self, key: bytes) -> None:
        os.write(self.master, key)


@dataclass
class Shown:
    """The output of a command in its terminal."""

    code: int
    written: str

    @property
    def lines(self) -> list[str]:
        """The lines that stay, without colours and without the live display."""
        left = self.written.rsplit(ERASE, 1)[-1]
        return [line.rstrip() for line in ESCAPE.sub("", left).splitlines()]

    @property
    def text(self) -> str:
        """The same as one text, without line breaks."""
        return " ".join(" ".join(self.lines).split())


async def in_terminal(
    command: str,
    columns: int,
    *arguments: str,
    on_output: Callable[[Terminal], None] = lambda _terminal: None,
    **environment: str,
) -> Shown:
    """Run a command in its own terminal, where Ctrl-C works as for a user."""
    terminal = Terminal(columns)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOG_IN, os.ttyname(terminal.slave)),
        *(sys.executable, "-m", "exporter", command, *arguments),
        env={"PATH": os.environ["PATH"], **(UTF8 | environment)},
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while await terminal.read():
                on_output(terminal)
                terminal.leave()
            return Shown(await process.wait(), terminal.written)
    finally:
        terminal.leave()
        os.close(terminal.master)
        if process.returncode is None:
            process.kill()
            await process.wait()
