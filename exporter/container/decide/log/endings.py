"""Which lines of a log tell how a run ended. Pure.

A log of vLLM's is of several processes. Each line of a logger begins with its process, level, time
and place; a traceback of Python's own has none of that. What a line says is what follows all that.

- Colours are taken away first: vLLM colours its prefixes where it thinks that somebody looks.
- What is below ERROR is harmless, and so is an error after which it was tried again.
- The last exception decides, with those that it came from. One that only says that another process
  failed ("Engine core initialization failed. See root cause above.") sends us to that process:
  there the first one decides, for the others follow from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Colours and the like (ECMA-48), and what else does not print.
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
_TRIED_AGAIN = re.compile(
    r"[Rr]etrying|\[Retry \d+/\d+\]|thrown while requesting|[Ww]ill (be )?(retr|try again)"
)
# Left behind by processes that end, whatever for; and what is no sentence of its own.
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
# How a program is ended, not why.
_NO_REASON = frozenset({"CancelledError", "SystemExit", "GeneratorExit", "BrokenPipeError"})
# What only says that something else failed.
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


def says_something(line: str) -> bool:
    """Whether a line is more than blank, or than what every process leaves behind."""
    said = _read(line).says
    return bool(said.strip()) and not _NOISE.search(said)


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line says without its prefix. `record` is the prefix, the same for one message."""

    says: str
    level: str | None
    record: tuple[str | None, str, str] | None


@dataclass(frozen=True)
class Ending:
    """The lines of a run, oldest first, without their prefixes; harmless ones are empty."""

    lines: tuple[str, ...]

    @classmethod
    def of(cls, log: Sequence[str]) -> Ending:
        """Read the lines of a log."""
        return cls(tuple(_without_harmless([_read(line) for line in log])))

    @cached_property
    def exceptions(self) -> list[int]:
        """Where an exception is named."""
        return [n for n, line in enumerate(self.lines) if _names_exception(line)]

    @cached_property
    def symptoms(self) -> list[int]:
        """Where it is only said that something else failed."""
        return [n for n, line in enumerate(self.lines) if _SYMPTOM.search(line)]

    @cached_property
    def sends_elsewhere(self) -> bool:
        """Whether the last exception only says that another process failed."""
        return bool(self.exceptions) and self.exceptions[-1] in self.symptoms

    def deciding(self) -> range:
        """The lines that say why: of these the first counts where `sends_elsewhere`, else the last
        one.
        """
        if not self.exceptions:
            return range(len(self.lines))
        if not self.sends_elsewhere:
            return range(self._begin_of(self.exceptions[-1]), len(self.lines))
        roots = self._roots()
        if not roots:
            return range(len(self.lines))
        told = [n for n in self.symptoms if n < roots[0]]
        # What its process wrote just before belongs to it, as NCCL's own lines do.
        return range(told[0] if told else self._begin_of(roots[0]), len(self.lines))

    def evidence(self) -> str:
        """The line that comes nearest to a reason where none is recognised; may be empty."""
        roots = self._roots() if self.sends_elsewhere else self.exceptions[-1:]
        if roots:
            return self.lines[roots[0]].strip()
        told = self.symptoms or [n for n, line in enumerate(self.lines) if line.strip()]
        return self.lines[told[-1]].strip() if told else ""

    def of_one_exception(self, number: int) -> str:
        """The lines of the traceback that ends in this one, as one text."""
        return "\n".join(self.lines[self._begin_of(number) : number + 1])

    def _roots(self) -> list[int]:
        """The exceptions that are no symptoms: those after the first symptom, if there are any."""
        roots = [n for n in self.exceptions if n not in self.symptoms]
        after = [n for n in roots if self.symptoms and n > self.symptoms[0]]
        return after or roots

    def _begin_of(self, number: int) -> int:
        """Where the traceback begins that ends in this line, with those that it came from."""
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
    if found is None:  # cannot be: all of it is optional
        return _Line(text, None, None)
    process, level, time, place = found.group("process", "level", "time", "place")
    record = (process, time, place) if time is not None and place is not None else None
    return _Line(text[found.end() :], level, record)


def _without_harmless(lines: Sequence[_Line]) -> Iterator[str]:
    for record, several in groupby(lines, key=lambda line: line.record):
        message = list(several)
        # A message of several lines has the prefix on each, and only its last says "retrying".
        again = record is not None and any(_TRIED_AGAIN.search(line.says) for line in message)
        for line in message:
            harmless = again or line.level in _HARMLESS_LEVELS or _TRIED_AGAIN.search(line.says)
            yield "" if harmless or _NOISE.search(line.says) else line.says


def _names_exception(line: str) -> bool:
    found = _EXCEPTION.match(line)
    return found is not None and found["name"].rpartition(".")[2] not in _NO_REASON
