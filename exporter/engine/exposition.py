"""vLLM's /metrics page into one `EngineSnapshot`.

A page of eight ranks has over three thousand lines, of which less than a hundred are wanted. Those
are picked first, on bytes, and only they are given to prometheus_client's parser.

What is unknown stays None: a family that is not on the page; one with a value that is not finite
or is negative on any rank, since a sum over the other ranks would be wrong; one that has no series
for a rank that the other families name; one with the same series twice.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from exporter.engine import names
from exporter.engine.names import Family, Ranks
from exporter.errors import ExpositionError
from exporter.model import CacheConfig, EngineSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client.samples import Sample

_T = TypeVar("_T")

_SHOWN = 120  # characters of a bad line that an error shows

# prometheus_client's parser takes some 10 µs a line, and the daemon stands still meanwhile. A rank
# has about a dozen wanted lines, one of them with 1.5 kB.
_MOST_LINES = 2500
_MOST_BYTES = 512 * 1024
_JUDGED_BYTES = 16 * 1024
"""How much of a page without a wanted line is looked at to say whether it is Prometheus text."""


def _alternatives(wanted: Iterable[str]) -> bytes:
    return b"|".join(re.escape(name).encode() for name in sorted(wanted))


_VLLM = "vllm:"
# A sample of a wanted family: its name is followed by labels or by a blank, so that neither a
# longer name nor a comment is taken. The common prefix stands outside of the alternatives since
# that makes the search three times as fast. Two rare kinds of line are taken whatever they hold,
# and the parser says their name: indented ones, and those with the name among the labels (the
# UTF-8 names of Prometheus 3).
_WANTED_LINE = re.compile(
    b"\n((?:(?:vllm:(?:"
    + _alternatives(n.removeprefix(_VLLM) for n in names.WANTED_NAMES if n.startswith(_VLLM))
    + b")|"
    + _alternatives(n for n in names.WANTED_NAMES if not n.startswith(_VLLM))
    + b")[{ \t]|\\{|[ \t]+[^# \t\r\n])[^\n]*)"
)
_CONFIG_LINE = re.compile(re.escape(names.CACHE_CONFIG) + "[{ \t]")


def parse(page: bytes | str, *, at: float, scrape_seconds: float) -> EngineSnapshot:
    """Read a page in Prometheus's text format, of any vLLM since 0.8.5.

    `ranks` is 0 when no wanted family of vLLM's is on the page. Raises `ExpositionError` when the
    page is not Prometheus text or breaks off; a mistake in a family that is not wanted is not seen.
    """
    data = page.encode("utf-8", "surrogatepass") if isinstance(page, str) else page
    lines = _wanted_lines(data)
    config_lines = [line for line in lines if _CONFIG_LINE.match(line)]
    samples = _parsed([line for line in lines if not _CONFIG_LINE.match(line)], data)
    configs = [_config_labels(line, data) for line in config_lines]
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.name == names.CACHE_CONFIG:
            configs.append(sample.labels)
        elif sample.name in names.WANTED_NAMES:
            by_name.setdefault(sample.name, []).append(sample)
    return _snapshot(by_name, configs, at=at, scrape_seconds=scrape_seconds)


def _wanted_lines(data: bytes) -> list[str]:
    """The wanted families' samples, in the page's order."""
    found: list[bytes] = _WANTED_LINE.findall(b"\n" + data)
    if not found:
        # Nothing to read: tell a page of other metrics from one that is no page of metrics.
        _parsed(_beginning(data).decode("utf-8", "replace").split("\n"), data)
    if len(found) > _MOST_LINES or sum(map(len, found)) > _MOST_BYTES:
        raise ExpositionError(f"too much to read: {len(found)} lines of the families that are read")
    if data and not data.endswith(b"\n"):
        last = data.rpartition(b"\n")[2].decode("utf-8", "replace")
        raise _mistake(data, last, "the page breaks off")
    try:
        return b"\n".join(found).decode().split("\n") if found else []
    except UnicodeDecodeError as error:
        bad = next(line for line in found if _undecodable(line)).decode("utf-8", "replace")
        raise _mistake(data, bad, "not UTF-8") from error


def _beginning(data: bytes) -> bytes:
    """The first whole lines, or the beginning of a first line that is longer than any."""
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
        raise _mistake(data, _culprit(lines), "not Prometheus text") from error


# What prometheus_client raises on malformed lines; the last for a row of digits beyond any float.
_PARSER_ERRORS = (ValueError, IndexError, OverflowError)


def _samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def _culprit(lines: Sequence[str]) -> str:
    """The first line that the parser does not take."""
    for line in lines:
        try:
            _samples(line)
        except _PARSER_ERRORS:
            return line
    return lines[0]


@lru_cache(maxsize=256)
def _labels_of(line: str) -> Mapping[str, str]:
    # This line has over forty labels and never changes while an engine runs; reading those of
    # eight ranks anew would take longer than all the rest of the page.
    (sample,) = _samples(line)
    labels: Mapping[str, str] = sample.labels
    return labels


def forget() -> None:
    """Forget the configuration lines read before, so that the next page is read as the first."""
    _labels_of.cache_clear()


def _config_labels(line: str, data: bytes) -> Mapping[str, str]:
    try:
        return _labels_of(line)
    except _PARSER_ERRORS as error:
        raise _mistake(data, line, "not Prometheus text") from error


def _mistake(data: bytes, line: str, what: str) -> ExpositionError:
    whole = data.decode("utf-8", "replace").split("\n")
    number = next(
        (n for n, other in enumerate(whole, 1) if other.lstrip(" \t") == line.lstrip()), 1
    )
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
    return ExpositionError(f"{what}: line {number}: {shown!r}")


def _snapshot(
    by_name: Mapping[str, Sequence[Sample]],
    configs: Sequence[Mapping[str, str]],
    *,
    at: float,
    scrape_seconds: float,
) -> EngineSnapshot:
    engines = {
        sample.labels["engine"]
        for family in names.VLLM_FAMILIES
        for sample in _newest(family, by_name)
        if "engine" in sample.labels
    }
    models = {
        sample.labels["model_name"]
        for samples in by_name.values()
        for sample in samples
        if "model_name" in sample.labels
    }
    seen = bool(configs) or any(_newest(family, by_name) for family in names.VLLM_FAMILIES)

    def value(family: Family) -> float | None:
        return _combined(_newest(family, by_name), engines, family.ranks)

    return EngineSnapshot(
        at=at,
        scrape_seconds=scrape_seconds,
        ranks=len(engines) or int(seen),
        model_names=tuple(sorted(models)),
        process_start_time=value(names.PROCESS_START),
        queried_tokens=value(names.QUERIED_TOKENS),
        hit_tokens=value(names.HIT_TOKENS),
        cached_prompt_tokens=value(names.CACHED_PROMPT_TOKENS),
        prompt_tokens=value(names.PROMPT_TOKENS),
        generation_tokens=value(names.GENERATION_TOKENS),
        preemptions=value(names.PREEMPTIONS),
        kv_cache_usage_ratio=_ratio(value(names.KV_CACHE_USAGE)),
        requests_running=value(names.REQUESTS_RUNNING),
        requests_waiting=value(names.REQUESTS_WAITING),
        hit_rate_gauge=_ratio(value(names.HIT_RATE)),
        cache=_cache_config(configs) if configs else None,
        iteration_tokens=value(names.ITERATION_TOKENS),
        asleep=_asleep(by_name.get(names.SLEEP_STATE, ())),
    )


def _asleep(samples: Sequence[Sample]) -> bool | None:
    """Whether a rank sleeps; None where the page does not say so of each."""
    awake = [_known(s.value) for s in samples if s.labels.get("sleep_state") == "awake"]
    if 0 in awake:
        return True
    return None if not awake or None in awake else False


def _newest(family: Family, by_name: Mapping[str, Sequence[Sample]]) -> Sequence[Sample]:
    """The samples under the newest of the family's names that is on the page."""
    return next((by_name[name] for name in family.names if name in by_name), ())


def _combined(samples: Sequence[Sample], engines: set[str], ranks: Ranks) -> float | None:
    """One number for all ranks, None where one of them is unknown."""
    if not samples:
        return None
    named = {sample.labels["engine"] for sample in samples if "engine" in sample.labels}
    series = {tuple(sorted(sample.labels.items())) for sample in samples}
    values = [_known(sample.value) for sample in samples]
    known = [value for value in values if value is not None]
    whole = len(known) == len(values) == len(series) and named in (set(), engines)
    if not whole or (ranks is Ranks.ONLY and len(known) != 1):
        return None
    total = math.fsum(known)
    return total / len(known) if ranks is Ranks.MEAN else total


def _known(value: float) -> float | None:
    """The value if it can be one of a wanted family: finite and not negative."""
    try:
        number = float(value)
    except OverflowError:  # the parser makes an int of any row of digits
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _ratio(value: float | None) -> float | None:
    return value if value is not None and value <= 1 else None


def _cache_config(ranks: Sequence[Mapping[str, str]]) -> CacheConfig:
    """What the ranks' `cache_config_info` agree on.

    `num_blocks` is the label as it stands: with data parallelism vLLM adds the ranks' blocks up
    and says the sum on each rank's line, while `kv_cache_size_tokens` is one rank's (0.32.0,
    `v1/engine/core_client.py`).
    """

    def label(name: str) -> Callable[[Mapping[str, str]], int | None]:
        return lambda labels: _positive_int(labels.get(name))

    return CacheConfig(
        match_unit_tokens=_agreed(ranks, _match_unit),
        block_size=_agreed(ranks, label("block_size")),
        prefix_caching=_agreed(ranks, _prefix_caching),
        num_blocks=_agreed(ranks, label("num_gpu_blocks")),
        capacity_tokens=_agreed(ranks, label("kv_cache_size_tokens")),
        labels={
            name: value
            for name, value in ranks[0].items()
            if name != "engine" and all(other.get(name) == value for other in ranks)
        },
    )


def _agreed(
    ranks: Sequence[Mapping[str, str]], read: Callable[[Mapping[str, str]], _T]
) -> _T | None:
    answers = {read(labels) for labels in ranks}
    return answers.pop() if len(answers) == 1 else None


# vLLM's `config/cache.py`: `cache_hit_alignment_tokens` is the "token granularity at which
# prefix-cache hits land", `prefix_match_unit` "the finest token boundary a prefix-cache hit can
# land on", `effective_attention_block_size` the "full-attention block size in tokens, including
# DCP". Each came later than the next and is the text "None" where it is not set.
_MATCH_UNIT_LABELS = (
    "cache_hit_alignment_tokens",
    "prefix_match_unit",
    "effective_attention_block_size",
    "block_size",
)


def _match_unit(labels: Mapping[str, str]) -> int | None:
    units = (_positive_int(labels.get(name)) for name in _MATCH_UNIT_LABELS)
    return next((unit for unit in units if unit is not None), None)


def _prefix_caching(labels: Mapping[str, str]) -> bool | None:
    return {"True": True, "False": False}.get(labels.get("enable_prefix_caching", ""))


def _positive_int(text: str | None) -> int | None:
    if text is None or not re.fullmatch("[0-9]{1,15}", text):
        return None
    return int(text) or None
