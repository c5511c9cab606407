"""Makes one `EngineSnapshot` of the samples of a page of vLLM's /metrics.

A family is None (unknown) if it is not on the page, if a rank's value is negative or not finite, if
a rank that other families have is missing, if a series is there twice, or if its unit is unknown.

vLLM's series have labels for the model and the rank. If they have another label (`server`, `pod`,
`instance`, `url`), the page is that of a router or a collector, with one engine or several.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.engine.metrics import names
from exporter.engine.metrics.histograms import histograms_of
from exporter.engine.metrics.names import Family, Ranks
from exporter.model.engine import CacheConfig, EngineSnapshot, release

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prometheus_client.samples import Sample

    from exporter.model.engine import PartKey

_T = TypeVar("_T")


_OWN_LABELS = frozenset({"model_name", "engine", "engine_idx", "pid"})
"""The labels that vLLM sets, and prometheus_client (`pid`) if processes share a page. A router or a
collector added any other label."""


@dataclass(frozen=True, slots=True)
class Page:
    """The parts of a page that matter.

    `lookups_help` is the HELP of the lookups if they have an old name. It or the engine's `version`
    shows whether they count tokens or blocks. `unfilled` are families that are 0 on every engine.
    """

    by_name: Mapping[str, Sequence[Sample]]
    configs: Sequence[Mapping[str, str]]
    lookups_help: str | None
    version: str | None
    unfilled: frozenset[str] = frozenset()


def snapshot(page: Page, *, at: float, scrape_seconds: float) -> EngineSnapshot:
    """One snapshot of all ranks, and of all engines if the page has several."""
    foreign = frozenset(
        label
        for sample in _of_vllm(page.by_name)
        for label in sample.labels
        if label not in _OWN_LABELS
    )
    if not foreign:
        return _engine_snapshot(page, at=at, scrape_seconds=scrape_seconds)
    parts = {
        key: _engine_snapshot(part, at=at, scrape_seconds=scrape_seconds)
        for key, part in _by_engine(page, foreign).items()
    }
    return _sum_of_engines(parts)


def _by_engine(page: Page, foreign: frozenset[str]) -> dict[PartKey, Page]:
    """The page of each engine, by the labels that tell them apart.

    Series without these labels are not an engine's, such as the start time of the router. Families
    that are 0 on every engine count as unknown, because a router shows 0 for what it does not know.
    The version is unknown, because a router answers with its own.
    """

    def key(labels: Mapping[str, str]) -> PartKey:
        return tuple(sorted((name, labels[name]) for name in foreign if name in labels))

    by_name: dict[PartKey, dict[str, list[Sample]]] = {}
    configs: dict[PartKey, list[Mapping[str, str]]] = {}
    for name, samples in page.by_name.items():
        for sample in samples:
            by_name.setdefault(key(sample.labels), {}).setdefault(name, []).append(sample)
    for labels in page.configs:
        configs.setdefault(key(labels), []).append(labels)
    unfilled = frozenset(
        name
        for name, samples in page.by_name.items()
        if name != names.SLEEP_STATE and all(sample.value == 0 for sample in samples)
    )
    return {
        one: Page(families, configs.get(one, ()), page.lookups_help, None, unfilled)
        for one, families in by_name.items()
        if _of_vllm(families)
    }


def of_replicas(
    parts: Mapping[PartKey, EngineSnapshot], unread: Mapping[PartKey, str]
) -> EngineSnapshot:
    """One snapshot of the pages of several replicas. `unread`: why a page could not be read."""
    return replace(_sum_of_engines(parts, whole=not unread), own_pages=True, unread=unread)


def _sum_of_engines(
    parts: Mapping[PartKey, EngineSnapshot], *, whole: bool = True
) -> EngineSnapshot:
    """The snapshots of several engines as one. A number that one of them lacks is unknown."""
    every = list(parts.values())
    numbers: dict[str, Any] = {
        field: _joint([getattr(one, field) for one in every], family.ranks) if whole else None
        for field, family in names.FIELDS.items()
    }
    return EngineSnapshot(
        at=every[0].at,
        scrape_seconds=every[0].scrape_seconds,
        ranks=sum(one.ranks for one in every),
        model_names=tuple(sorted({name for one in every for name in one.model_names})),
        cache=_agreed_cache([one.cache for one in every]),
        asleep=_same([one.asleep for one in every]),
        lookup_step_tokens=max(one.lookup_step_tokens for one in every),
        parts=parts,
        **numbers,
    )


def _engine_snapshot(page: Page, *, at: float, scrape_seconds: float) -> EngineSnapshot:
    by_name, configs = page.by_name, page.configs
    own = _of_vllm(by_name)
    engines = {sample.labels["engine"] for sample in own if "engine" in sample.labels}
    models = {
        sample.labels["model_name"]
        for samples in by_name.values()
        for sample in samples
        if "model_name" in sample.labels
    }
    seen = bool(configs or own)
    cache = _cache_config(configs, len(engines))
    step = _lookup_step(page, cache)
    prompts = _by_source(names.PROMPT_TOKENS_BY_SOURCE, page, engines)
    numbers: dict[str, Any] = {
        field: _number(family, page, engines, step) for field, family in names.FIELDS.items()
    }
    return EngineSnapshot(
        at=at,
        scrape_seconds=scrape_seconds,
        ranks=len(engines) or int(seen),
        model_names=tuple(sorted(models)),
        cache=cache,
        asleep=_asleep(by_name.get(names.SLEEP_STATE, ())),
        lookup_step_tokens=step or 1,
        local_cached_tokens=prompts.get(names.LOCAL_HIT),
        cached_by_source=_cached_by_source(page, engines, prompts),
        speculative=names.SPECULATION in by_name if seen else None,
        histograms=histograms_of(by_name, len(engines) or 1),
        draft_tokens=_draft_tokens(page.by_name.get(names.DRAFTED, ())),
        prompt_tokens_by_rank=_by_rank(_newest(names.PROMPT_TOKENS, by_name), engines),
        **numbers,
    )


def _number(family: Family, page: Page, engines: set[str], step: int | None) -> float | None:
    """The number of a family on a page, the lookups in tokens."""
    samples = _newest(family, page.by_name)
    if samples and samples[0].name in page.unfilled:
        return None
    number = _combined(samples, engines, family.ranks)
    if number is None or (family in names.RATIOS and number > 1):
        return None
    if family in names.LOOKUPS:
        return None if step is None else number * step
    return number


def _cached_by_source(
    page: Page, engines: set[str], prompts: Mapping[str, float]
) -> Mapping[str, float]:
    """Cached prompt tokens by vLLM's own words for their source, the most detailed there are.

    `prompts` are all prompt tokens by source.
    """
    tiers = _by_source(names.CACHED_BY_SOURCE, page, engines)
    return tiers or {name: n for name, n in prompts.items() if name != names.COMPUTED}


def _by_source(name: str, page: Page, engines: set[str]) -> Mapping[str, float]:
    """The sum over the ranks for each label `source`, where all ranks have a value."""
    if name in page.unfilled:
        return {}
    found: dict[str, list[Sample]] = {}
    for sample in page.by_name.get(name, ()):
        found.setdefault(sample.labels.get("source", ""), []).append(sample)
    sums = {source: _combined(samples, engines, Ranks.SUM) for source, samples in found.items()}
    return {source: number for source, number in sums.items() if number is not None}


def _by_rank(samples: Sequence[Sample], engines: set[str]) -> dict[int, float]:
    """The value of each rank, by its number; empty if one is unknown."""
    if not all(engine.isdecimal() for engine in engines):
        return {}
    values = {
        int(engine): _combined(
            [sample for sample in samples if sample.labels.get("engine") == engine],
            {engine},
            Ranks.SUM,
        )
        for engine in engines
    }
    known = {rank: value for rank, value in values.items() if value is not None}
    return known if len(known) == len(values) else {}


def _draft_tokens(samples: Sequence[Sample]) -> int | None:
    """The longest draft: vLLM has a series for each position of it."""
    return len({sample.labels.get("position") for sample in samples}) or None


def _lookup_step(page: Page, cache: CacheConfig | None) -> int | None:
    """The tokens that one count of the lookups means: 1 or the block size; None is unknown.

    The V1 engine of 0.8.5 counts blocks under the names that count tokens since 0.9.0. The HELP
    line shows which (`v1/metrics/loggers.py`).
    """
    on_page = page.by_name
    if not any(_newest(f, on_page) and f.names[0] not in on_page for f in names.LOOKUPS):
        return 1
    block = cache.block_size if cache else None
    words = (page.lookups_help or "").lower()
    if "block" in words:
        return block
    if "token" in words:
        return 1
    found = release(page.version)
    if found is None:
        return None
    return block if found < _FIRST_IN_TOKENS else 1


_FIRST_IN_TOKENS = (9, 0)  # vLLM 0.9


def _asleep(samples: Sequence[Sample]) -> bool | None:
    """Whether a rank sleeps; None if that is unknown for a rank."""
    awake = [_known(s.value) for s in samples if s.labels.get("sleep_state") == "awake"]
    if 0 in awake:
        return True
    return None if not awake or None in awake else False


def _newest(family: Family, by_name: Mapping[str, Sequence[Sample]]) -> Sequence[Sample]:
    """The samples under the family's newest name on the page."""
    return next((by_name[name] for name in family.names if name in by_name), ())


def _of_vllm(by_name: Mapping[str, Sequence[Sample]]) -> list[Sample]:
    """The samples of all families of vLLM's engine."""
    return [sample for family in names.VLLM_FAMILIES for sample in _newest(family, by_name)]


def _combined(samples: Sequence[Sample], engines: set[str], ranks: Ranks) -> float | None:
    """One number for all ranks; None if one of them is missing or unknown."""
    named = {sample.labels["engine"] for sample in samples if "engine" in sample.labels}
    series = {tuple(sorted(sample.labels.items())) for sample in samples}
    if not samples or len(series) < len(samples) or named not in (set(), engines):
        return None
    return _joint([_known(sample.value) for sample in samples], ranks)


def _joint(values: Sequence[float | None], ranks: Ranks) -> float | None:
    """One number for all ranks or engines; None if one of them is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or (ranks is Ranks.ONLY and len(known) > 1):
        return None
    total = math.fsum(known)
    return total / len(known) if ranks is Ranks.MEAN else total


def _known(value: float) -> float | None:
    """The value, or None if it is negative or not finite."""
    try:
        number = float(value)
    except OverflowError:  # the parser turns any row of digits into an int
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _cache_config(ranks: Sequence[Mapping[str, str]], engines: int) -> CacheConfig | None:
    """The values that are the same in the `cache_config_info` of all ranks; None without any.

    With data parallelism vLLM writes the blocks of all ranks on each rank's line, but
    `kv_cache_size_tokens` is that of one rank (0.32.0, `v1/engine/core_client.py`). Before 0.24
    there is no `kv_cache_size_tokens`, and the capacity is one rank's share of the blocks. That is
    too much for a model with several kinds of layers.
    """
    cache = _agreed_cache([_cache_of_rank(labels) for labels in ranks])
    if cache is None or any("kv_cache_size_tokens" in labels for labels in ranks):
        return cache
    if cache.num_blocks is None or cache.block_size is None:
        return cache
    blocks = cache.num_blocks // max(1, engines, len(ranks))
    return replace(cache, capacity_tokens=blocks * cache.block_size or None)


def _cache_of_rank(labels: Mapping[str, str]) -> CacheConfig:
    return CacheConfig(
        match_unit_tokens=_match_unit(labels),
        block_size=_positive_int(labels.get("block_size")),
        prefix_caching=_prefix_caching(labels),
        num_blocks=_positive_int(labels.get("num_gpu_blocks")),
        capacity_tokens=_positive_int(labels.get("kv_cache_size_tokens")),
        labels={name: value for name, value in labels.items() if name != "engine"},
    )


def _agreed_cache(caches: Sequence[CacheConfig | None]) -> CacheConfig | None:
    """The values that are the same in the caches of several ranks or engines."""
    known = [cache for cache in caches if cache is not None]
    if not known or len(known) < len(caches):
        return None
    labels = known[0].labels.items()
    return CacheConfig(
        match_unit_tokens=_same([cache.match_unit_tokens for cache in known]),
        block_size=_same([cache.block_size for cache in known]),
        prefix_caching=_same([cache.prefix_caching for cache in known]),
        num_blocks=_same([cache.num_blocks for cache in known]),
        capacity_tokens=_same([cache.capacity_tokens for cache in known]),
        labels={k: v for k, v in labels if all(cache.labels.get(k) == v for cache in known)},
    )


def _same(values: Sequence[_T | None]) -> _T | None:
    return values[0] if len(set(values)) == 1 else None


# From vLLM's `config/cache.py`: `cache_hit_alignment_tokens` is the "token granularity at which
# prefix-cache hits land", `prefix_match_unit` "the finest token boundary a prefix-cache hit can
# land on", `effective_attention_block_size` the "full-attention block size in tokens, including
# DCP". The newest stands first. An unset label has the text "None".
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
