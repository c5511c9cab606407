"""Which lines of a log show why a run ended.

Several processes write to vLLM's log. A logger's line starts with a prefix: process, level, time
and place. A Python traceback has no prefix. The message is the rest of the line.

- Terminal colours are removed first.
- Lines below ERROR do not count, nor do errors that were retried.
- The last exception decides, with its causes. One that only says that another process failed
  ("Engine core initialization failed. See root cause above.") points to that process: there the
  first exception decides, because the others follow from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Colours (ECMA-48) and other control characters.
_CONTROL = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|[\x00-\x08\x0e-\x1f]"
)
# "(EngineCore_DP0 pid=272) ERROR 11-24 20:24:53 [core.py:700] ", all but the level optional.
_STAMP = re.compile(
    r"(?P<process>\([^()]*pid=\d+\) )?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL|FATAL)"
    r"(?:(?P<time> \d\d-\d\d \d\d:\d\d:\d\d)(?P<place> \[[^\]]*\])?|:)?(?: |$))?"
    r"(?:\[rank\d+\]: ?)?"
)
_HARMLESS_LEVELS = frozenset({"DEBUG", "INFO", "WARNING"})
# vLLM's with_retry, huggingface_hub's backoff, urllib3, hf_xet.
_RETRIED = re.compile(
    r"[Rr]etrying|\[Retry \d+/\d+\]|thrown while requesting|[Ww]ill (be )?(retr|try again)"
)
# What every process logs when it ends, and lines without a message.
_NOISE = re.compile(
    r"resource_tracker|warnings\.warn\(|leaked (semaphore|shared_memory)|"
    r"destroy_process_group\(\) was not called|^Exception ignored in|^sys:1: |"
    r"For further information visit https?://|^\s*[~^]+\s*$|^\s*File \"|^\s*\.\.\. "
)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
_CAME_FROM = re.compile(
    r"During handling of the above exception|The above exception was the direct cause"
)
_EXCEPTION = re.compile(r"(?P<name>[A-Za-z_][\w.]*(?:Error|Exception|Exit|Fault))(?::|\s*$)")
# These exceptions show how a program ends, not why.
_NO_REASON = frozenset({"CancelledError", "SystemExit", "GeneratorExit", "BrokenPipeError"})
# Messages that only say that something else failed.
_SYMPTOM = re.compile(
    r"EngineDeadError|EngineCore (encountered|failed|hit an exception)|"
    r"[Ee]ngine (core|process)\S* (initialization )?failed|"
    r"[Ee]ngine core proc\S* .*died|Worker proc .* died unexpectedly|"
    r"WorkerProc (initialization )?(failed|hit an exception)|"
    r"([Ss]ee|check) (the )?(root cause|stack ?trace)"
)


def plain(text: str) -> str:
    """A line without colours and other control characters."""
    return _CONTROL.sub("", text)


def has_content(line: str) -> bool:
    """Whether a line has a message that is not noise."""
    message = _read(line).message
    return bool(message.strip()) and not _NOISE.search(message)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line without its prefix. Lines of one logger call have the same `record`."""

    message: str
    level: str | None
    record: tuple[str | None, str, str] | None


@dataclass(frozen=True)
class Ending:
    """The messages of a run, oldest first; harmless ones are empty."""

    lines: tuple[str, ...]

    @classmethod
    def of(cls, log: Sequence[str]) -> Ending:
        """Read the lines of a log."""
        return cls(tuple(_without_harmless([_read(line) for line in log])))

    @cached_property
    def exceptions(self) -> list[int]:
        """The numbers of the lines that name an exception."""
        return [n for n, line in enumerate(self.lines) if _names_exception(line)]

    @cached_property
    def symptoms(self) -> list[int]:
        """The numbers of the lines that only say that something else failed."""
        return [n for n, line in enumerate(self.lines) if _SYMPTOM.search(line)]

    @cached_property
    def points_elsewhere(self) -> bool:
        """Whether the last exception only says that another process failed."""
        return bool(self.exceptions) and self.exceptions[-1] in self.symptoms

    def deciding(self) -> range:
        """The lines that can show the cause: best last, or best first if `points_elsewhere`."""
        if not self.exceptions:
            return range(len(self.lines))
        if not self.points_elsewhere:
            return range(self._begin_of(self.exceptions[-1]), len(self.lines))
        roots = self._roots()
        if not roots:
            return range(len(self.lines))
        before = [n for n in self.symptoms if n < roots[0]]
        # Lines just before the exception belong to it, such as NCCL's.
        return range(before[0] if before else self._begin_of(roots[0]), len(self.lines))

    def evidence(self) -> str:
        """The best line where no cause is recognised; may be empty."""
        roots = self._roots() if self.points_elsewhere else self.exceptions[-1:]
        if roots:
            return self.lines[roots[0]].strip()
        lines = self.symptoms or [n for n, line in enumerate(self.lines) if line.strip()]
        return self.lines[lines[-1]].strip() if lines else ""

    def of_one_exception(self, number: int) -> str:
        """The lines of the traceback that ends in this one, as one text."""
        return "\n".join(self.lines[self._begin_of(number) : number + 1])

    def _roots(self) -> list[int]:
        """Exceptions that are not symptoms: those after the first symptom, if there are any."""
        roots = [n for n in self.exceptions if n not in self.symptoms]
        after = [n for n in roots if self.symptoms and n > self.symptoms[0]]
        return after or roots

    def _begin_of(self, number: int) -> int:
        """The start of the traceback that ends in this line, its causes included."""
        begin = next((n for n in range(number, -1, -1) if _TRACEBACK.search(self.lines[n])), None)
        if begin is None:
            return number
        before = next((n for n in range(begin - 1, -1, -1) if self.lines[n].strip()), None)
        if before is None or not _CAME_FROM.search(self.lines[before]):
            return begin
        return self._begin_of(before)


def _read(line: str) -> _Line:
    text = plain(line)
    found = _STAMP.match(text)
    if found is None:  # cannot happen: every part is optional
        return _Line(text, None, None)
    process, level, time, place = found.group("process", "level", "time", "place")
    record = (process, time, place) if time is not None and place is not None else None
    return _Line(text[found.end() :], level, record)


def _without_harmless(lines: Sequence[_Line]) -> Iterator[str]:
    for record, several in groupby(lines, key=lambda line: line.record):
        message = list(several)
        # A message of several lines repeats the prefix, and only its last line says "retrying".
        retried = record is not None and any(_RETRIED.search(line.message) for line in message)
        for line in message:
            harmless = retried or line.level in _HARMLESS_LEVELS or _RETRIED.search(line.message)
            yield "" if harmless or _NOISE.search(line.message) else line.message


def _names_exception(line: str) -> bool:
    found = _EXCEPTION.match(line)
    return found is not None and found["name"].rpartition(".")[2] not in _NO_REASON
