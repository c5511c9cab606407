"""Reads vLLM's /metrics page into one `EngineSnapshot`.

A page of eight ranks has over 3000 lines, but about 300 are needed. A search on bytes picks
these first. Each series of them goes to prometheus_client's parser once, later only its number is
read. snapshots.py does the rest.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from exporter.engine.metrics import names, snapshots
from exporter.errors import ExpositionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.samples import Sample

    from exporter.model.engine import EngineSnapshot

_SHOWN = 120  # characters of a bad line that an error shows

# prometheus_client's parser takes about 10 µs per line and blocks the event loop meanwhile. A rank
# has about 36 wanted lines, one of them with 1.5 kB. Those whose labels are known take 2 µs.
_MOST_LINES = 10_000  # 270 ranks
_MOST_BYTES = 1_000_000
_JUDGED_BYTES = 16 * 1024
"""How much of a page without a wanted line is checked for being Prometheus text."""


def _alternatives(wanted: Iterable[str]) -> bytes:
    return b"|".join(re.escape(name).encode() for name in sorted(wanted))


_VLLM = "vllm:"
# A sample of a wanted family: labels or a blank follow the name, so neither a longer name nor a
# comment matches. The common prefix is outside of the alternatives, which makes the search three
# times as fast. Two rare kinds of line always match, and the parser finds their name: indented
# lines, and lines with the name among the labels (the UTF-8 names of Prometheus 3).
_WANTED_LINE = re.compile(
    b"\n((?:(?:vllm:(?:"
    + _alternatives(n.removeprefix(_VLLM) for n in names.WANTED_NAMES if n.startswith(_VLLM))
    + b")|"
    + _alternatives(n for n in names.WANTED_NAMES if not n.startswith(_VLLM))
    + b")[{ \t]|\\{|[ \t]+[^# \t\r\n])[^\n]*)"
)
# A line with labels and a plain number. Its labels never change while an engine runs.
_SERIES_LINE = re.compile(r"(vllm:\w+\{[^{}#]*\}) ([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)")
_CONFIG_LINE = re.compile(re.escape(names.CACHE_CONFIG) + "[{ \t]")
# Only the HELP text shows the unit of the old names.
_LOOKUPS_HELP = re.compile(
    b"\n# HELP (?:"
    + _alternatives(family.names[-1].removesuffix("_total") for family in names.LOOKUPS)
    + b")(?:_total)? ([^\n]*)"
)


def parse(
    page: bytes | str, *, at: float, scrape_seconds: float, version: str | None = None
) -> EngineSnapshot:
    """Read a page in Prometheus's text format, of any vLLM since 0.8.5.

    `version` is the engine's, None while it is unknown. `ranks` is 0 if the page has no wanted
    family of vLLM. Raises `ExpositionError` if the page is not Prometheus text or breaks off.
    Errors in other families are not noticed.
    """
    data = page.encode("utf-8", "surrogatepass") if isinstance(page, str) else page
    lines = _wanted_lines(data)
    config_lines = [line for line in lines if _CONFIG_LINE.match(line)]
    others = [line for line in lines if not _CONFIG_LINE.match(line)]
    series = [_SERIES_LINE.fullmatch(line) for line in others]
    rest = [line for line, found in zip(others, series, strict=True) if found is None]
    samples = _parsed(rest, data)
    samples += [_sample(found[1], found[2], data) for found in series if found is not None]
    configs = [_config_labels(line, data) for line in config_lines]
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.name == names.CACHE_CONFIG:
            configs.append(sample.labels)
        elif sample.name in names.WANTED_NAMES:
            by_name.setdefault(sample.name, []).append(sample)
    read = snapshots.Page(by_name, configs, _lookups_help(data, by_name), version)
    return snapshots.snapshot(read, at=at, scrape_seconds=scrape_seconds)


def _lookups_help(data: bytes, by_name: Mapping[str, object]) -> str | None:
    """The HELP of the lookups if the page has only their old name."""
    if not any(f.names[-1] in by_name and f.names[0] not in by_name for f in names.LOOKUPS):
        return None
    found = _LOOKUPS_HELP.search(b"\n" + data)
    return None if found is None else found[1].decode("utf-8", "replace")


def _wanted_lines(data: bytes) -> list[str]:
    """The lines of the wanted families, in the page's order."""
    found: list[bytes] = _WANTED_LINE.findall(b"\n" + data)
    if not found:
        # No wanted line: raises if the page is not Prometheus text at all.
        _parsed(_beginning(data).decode("utf-8", "replace").split("\n"), data)
    if len(found) > _MOST_LINES or sum(map(len, found)) > _MOST_BYTES:
        raise ExpositionError(f"too much to read: {len(found)} lines of vLLM's families")
    if data and not data.endswith(b"\n"):
        last = data.rpartition(b"\n")[2].decode("utf-8", "replace")
        raise _error_at(data, last, "the page breaks off")
    try:
        return b"\n".join(found).decode().split("\n") if found else []
    except UnicodeDecodeError as error:
        bad = next(line for line in found if _undecodable(line)).decode("utf-8", "replace")
        raise _error_at(data, bad, "not UTF-8") from error


def _beginning(data: bytes) -> bytes:
    """The first whole lines, or the start of a very long first line."""
    if len(data) <= _JUDGED_BYTES:
        return data
    return data[: data.rfind(b"\n", 0, _JUDGED_BYTES) + 1] or data[:_JUDGED_BYTES]


def _undecodable(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def _parsed(lines: Sequence[str], data: bytes) -> list[Sample]:
    try:
        return _samples("\n".join(lines))
    except _PARSER_ERRORS as error:
        raise _error_at(data, _first_bad_line(lines), "not Prometheus text") from error


# What prometheus_client raises on malformed lines; `OverflowError` for very long numbers.
_PARSER_ERRORS = (ValueError, IndexError, OverflowError)


def _samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def _first_bad_line(lines: Sequence[str]) -> str:
    """The first line that the parser refuses."""
    for line in lines:
        try:
            _samples(line)
        except _PARSER_ERRORS:
            return line
    return lines[0]


@lru_cache(maxsize=256)
def _labels_of(line: str) -> Mapping[str, str]:
    # This line has over forty labels and never changes while an engine runs. Parsing the
    # lines of eight ranks again would take longer than the rest of the page.
    (sample,) = _samples(line)
    labels: Mapping[str, str] = sample.labels
    return labels


@lru_cache(maxsize=1 << 16)  # the series of 1,400 models
def _series_of(series: str) -> Sample:
    (sample,) = _samples(f"{series} 0")
    return sample


def _sample(series: str, value: str, data: bytes) -> Sample:
    """The sample of a series. Only its number is read each time."""
    try:
        return _series_of(series)._replace(value=float(value))
    except _PARSER_ERRORS as error:
        raise _error_at(data, f"{series} {value}", "not Prometheus text") from error


def forget() -> None:
    """Forget the parsed labels, so the next page is read like the first."""
    _labels_of.cache_clear()
    _series_of.cache_clear()


def _config_labels(line: str, data: bytes) -> Mapping[str, str]:
    try:
        return _labels_of(line)
    except _PARSER_ERRORS as error:
        raise _error_at(data, line, "not Prometheus text") from error


def _error_at(data: bytes, line: str, what: str) -> ExpositionError:
    whole = data.decode("utf-8", "replace").split("\n")
    number = next(
        (n for n, other in enumerate(whole, 1) if other.lstrip(" \t") == line.lstrip()), 1
    )
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
    return ExpositionError(f"{what}: line {number}: {shown!r}")
