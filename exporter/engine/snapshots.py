"""The samples of one page of vLLM's /metrics into one `EngineSnapshot`. Pure.

What is unknown stays None: a family that is not on the page; one with a value that is not finite
or is negative on any rank, since a sum over the other ranks would be wrong; one that has no series
for a rank that the other families name; one with the same series twice; one whose unit is unknown.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

from exporter.engine import names
from exporter.engine.names import Family, Ranks
from exporter.model import CacheConfig, EngineSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from prometheus_client.samples import Sample

_T = TypeVar("_T")


def snapshot(
    by_name: Mapping[str, Sequence[Sample]],
    configs: Sequence[Mapping[str, str]],
    lookups_help: str | None,
    *,
    at: float,
    scrape_seconds: float,
    version: str | None = None,
) -> EngineSnapshot:
    """One snapshot of all ranks.

    `lookups_help` is the page's HELP of the lookups that it counts under an old name, `version`
    what the engine says of itself: they tell whether those are tokens or blocks.
    """
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

    cache = _cache_config(configs, len(engines)) if configs else None
    step = _lookup_step(by_name, cache, lookups_help, version)

    def value(family: Family) -> float | None:
        return _combined(_newest(family, by_name), engines, family.ranks)

    def looked_up(family: Family) -> float | None:
        counted = value(family)
        return None if counted is None or step is None else counted * step

    return EngineSnapshot(
        at=at,
        scrape_seconds=scrape_seconds,
        ranks=len(engines) or int(seen),
        model_names=tuple(sorted(models)),
        process_start_time=value(names.PROCESS_START),
        queried_tokens=looked_up(names.QUERIED_TOKENS),
        hit_tokens=looked_up(names.HIT_TOKENS),
        cached_prompt_tokens=value(names.CACHED_PROMPT_TOKENS),
        prompt_tokens=value(names.PROMPT_TOKENS),
        generation_tokens=value(names.GENERATION_TOKENS),
        preemptions=value(names.PREEMPTIONS),
        kv_cache_usage_ratio=_ratio(value(names.KV_CACHE_USAGE)),
        requests_running=value(names.REQUESTS_RUNNING),
        requests_waiting=value(names.REQUESTS_WAITING),
        hit_rate_gauge=_ratio(value(names.HIT_RATE)),
        cache=cache,
        iteration_tokens=value(names.ITERATION_TOKENS),
        asleep=_asleep(by_name.get(names.SLEEP_STATE, ())),
        lookup_step_tokens=step or 1,
    )


def _lookup_step(
    by_name: Mapping[str, Sequence[Sample]],
    cache: CacheConfig | None,
    lookups_help: str | None,
    version: str | None,
) -> int | None:
    """Tokens of one count of the lookups: 1, or a block's; None where the unit is unknown.

    The V1 engine of 0.8.5 counts blocks under the names that count tokens since 0.9.0; the HELP
    line of each says which (`v1/metrics/loggers.py`).
    """
    if not any(_newest(f, by_name) and f.names[0] not in by_name for f in names.LOOKUPS):
        return 1
    block = cache.block_size if cache else None
    if lookups_help is not None and "block" in lookups_help.lower():
        return block
    if lookups_help is not None and "token" in lookups_help.lower():
        return 1
    minor = re.match(r"0\.([0-9]+)\b", version or "")
    if minor is None:
        return None
    return block if int(minor[1]) < _FIRST_MINOR_IN_TOKENS else 1


_FIRST_MINOR_IN_TOKENS = 9


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


def _cache_config(ranks: Sequence[Mapping[str, str]], engines: int) -> CacheConfig:
    """What the ranks' `cache_config_info` agree on.

    `num_blocks` is the label as it stands: with data parallelism vLLM adds the ranks' blocks up
    and says the sum on each rank's line, while `kv_cache_size_tokens` is one rank's (0.32.0,
    `v1/engine/core_client.py`). Before 0.24 there is no `kv_cache_size_tokens`, and the capacity
    is that of a rank's share of the blocks: too much where a model's layers are of several kinds.
    """

    def label(name: str) -> Callable[[Mapping[str, str]], int | None]:
        return lambda labels: _positive_int(labels.get(name))

    block_size = _agreed(ranks, label("block_size"))
    num_blocks = _agreed(ranks, label("num_gpu_blocks"))
    capacity = _agreed(ranks, label("kv_cache_size_tokens"))
    told = any("kv_cache_size_tokens" in labels for labels in ranks)
    if not told and num_blocks is not None and block_size is not None:
        capacity = num_blocks // max(1, engines, len(ranks)) * block_size or None
    return CacheConfig(
        match_unit_tokens=_agreed(ranks, _match_unit),
        block_size=block_size,
        prefix_caching=_agreed(ranks, _prefix_caching),
        num_blocks=num_blocks,
        capacity_tokens=capacity,
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
