"""What an engine reports about itself, and what its counters add up to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

_RELEASE = re.compile(r"0\.(\d+)(?:\.(\d+))?")


def release(version: str | None) -> tuple[int, ...] | None:
    """The release of vLLM, such as (10, 2) of "0.10.2rc1"; None for any other than a 0.x version.

    Every vLLM is 0.x, and any other version is that of a gateway.
    """
    found = _RELEASE.match(version or "")
    return None if found is None else tuple(int(part or 0) for part in found.groups())


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The labels of `vllm:cache_config_info`; None where the ranks differ.

    Prefix hits are multiples of `match_unit_tokens`. `capacity_tokens` is that of one rank.
    """

    match_unit_tokens: int | None
    block_size: int | None
    prefix_caching: bool | None
    num_blocks: int | None
    capacity_tokens: int | None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine reports about itself on /v1/models and /version."""

    model: str
    max_model_len: int | None
    version: str | None
    simulated: bool


@dataclass(frozen=True, slots=True)
class Rank:
    """A data-parallel rank, with a cache of its own.

    `label` is the number in the label `engine` of its series, `index` the number in the request
    header that selects it. They differ on a server whose first rank is not 0 (hybrid load
    balancing): the header counts the server's own ranks.
    """

    label: int
    index: int


TRANSFERRED = "p2p"
"""vLLM's `source` of tokens that another vLLM instance computed for the request: moved, no hit."""


Adapters = Literal["all"] | tuple[str, ...]
"""LoRA adapters of an engine, by their names; "all" that it lists."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution of seconds. `counts` are observations up to each bound, the last of all."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float


PartKey = tuple[tuple[str, str], ...]
"""The labels of one engine's series that are not vLLM's own, as pairs of name and value."""

OWN_PAGE: PartKey = ()
"""The key of the engine whose own page it is."""

REPLICA = "replica"
"""The label of a part that has a page of its own; the value is the host and port of the page."""


def replica_key(name: str) -> PartKey:
    """The key of a replica that has a page of its own."""
    return ((REPLICA, name),)


def replica_name(key: PartKey | None) -> str | None:
    """The name of a replica that has a page of its own; None for any other key."""
    return dict(key or ()).get(REPLICA)


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """One reading of vLLM's own /metrics, over all engine ranks. Counters are vLLM's own values.

    Counters and the two request gauges are sums over the ranks. `kv_cache_usage_ratio` is their
    mean, since their caches have the same size. None: the family is missing or NaN. `asleep`: a
    rank sleeps (/sleep), so requests wait. `queried_tokens` and `hit_tokens` are multiples of
    `lookup_step_tokens`, because some versions count whole blocks. `speculative`: the engine
    decodes speculatively; `draft_tokens` is the longest draft.

    `hit_tokens` are those of the engine's own cache. `external_hit_tokens` came through a KV
    connector, out of the `external_queried_tokens` that the own cache lacked. Both are 0 without
    one. `cached_by_source` has vLLM's own words for where cached tokens came from, and
    `local_cached_tokens` are those of the own cache, counted with the first token. These two are
    known only of a single engine.

    `prompt_tokens_by_rank` has the prompt tokens of each rank, by the number in its label `engine`.
    It is empty if one of them is unknown, or the page has several engines.

    `queried_tokens` can be far more than all prompts (engine/metrics/lookups.py), `prompt_tokens`
    cannot.

    `parts` is empty on an engine's own page. If the page has the series of several engines, told
    apart by labels that are not vLLM's own, `parts` has a snapshot of each, and the rest of this
    snapshot is about all of them. `own_pages`: each part was read from that engine's own page
    (`metrics_urls`), so it is as exact as the page of a single engine. `unread` are the replicas
    whose page could not be read, each with the reason; what they count is unknown.
    """

    at: float
    scrape_seconds: float
    ranks: int
    model_names: tuple[str, ...]
    process_start_time: float | None
    queried_tokens: float | None
    hit_tokens: float | None
    cached_prompt_tokens: float | None
    prompt_tokens: float | None
    generation_tokens: float | None
    preemptions: float | None
    kv_cache_usage_ratio: float | None
    requests_running: float | None
    requests_waiting: float | None
    hit_rate_gauge: float | None  # of a V0 engine, which has no lookup counters
    cache: CacheConfig | None
    iteration_tokens: float | None = None
    asleep: bool | None = None
    lookup_step_tokens: int = 1
    external_queried_tokens: float | None = None
    external_hit_tokens: float | None = None
    local_cached_tokens: float | None = None
    cached_by_source: Mapping[str, float] = field(default_factory=dict)
    speculative: bool | None = None
    draft_tokens: int | None = None
    histograms: Mapping[str, Histogram] = field(default_factory=dict, repr=False)
    prompt_tokens_by_rank: Mapping[int, float] = field(default_factory=dict, repr=False)
    parts: Mapping[PartKey, EngineSnapshot] = field(default_factory=dict, repr=False)
    own_pages: bool = False
    unread: Mapping[PartKey, str] = field(default_factory=dict)

    @property
    def rank_list(self) -> tuple[Rank, ...]:
        """The ranks that can be told apart on this page, in order."""
        labels = sorted(self.prompt_tokens_by_rank)
        return tuple(Rank(label, label - labels[0]) for label in labels)

    @property
    def work_counters(self) -> tuple[float | None, ...]:
        """Counters that rise while the engine computes; the first one also during a prefill."""
        return self.iteration_tokens, self.prompt_tokens, self.generation_tokens

    @property
    def engine_labels(self) -> tuple[str, ...]:
        """The names of the labels that tell the engines on this page apart."""
        return tuple(sorted({name for key in self.parts for name, _ in key}))


@dataclass(frozen=True, slots=True)
class ScrapeFailure:
    """vLLM's /metrics could not be read."""

    at: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """vLLM's counters added up over its restarts: they never fall. None until first seen.

    `saved_tokens` are prompt tokens from the engine's own cache. What came through a KV connector
    was loaded at a cost that is not known, so it counts as a hit and not as saved.
    """

    queried_tokens: float | None = None
    hit_tokens: float | None = None
    saved_tokens: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None
    external_queried_tokens: float | None = None
    external_hit_tokens: float | None = None
    cached_by_source: Mapping[str, float] = field(default_factory=dict)

    @property
    def stored_tokens(self) -> float | None:
        """External hits without what another vLLM instance computed for this request (`p2p`)."""
        if self.external_hit_tokens is None:
            return None
        return max(0.0, self.external_hit_tokens - self.cached_by_source.get(TRANSFERRED, 0.0))

    @property
    def effective_hit_tokens(self) -> float | None:
        """Hits in the engine's own cache and in every tier below it."""
        stored = self.stored_tokens
        return None if self.hit_tokens is None or stored is None else self.hit_tokens + stored


@dataclass(frozen=True, slots=True)
class EngineView:
    """What is known about one engine after a scrape, also after one that failed.

    `hit_ratios` maps a window ("1m", "5m", "1h") to hits / lookups of all traffic within it; a
    window without traffic is left out. `effective_hit_ratios` also count hits in external tiers.
    `restarts` counts the restarts seen. `mixed`: a short time ago several processes answered at
    this URL in turn. `recounted`: within the last hour the engine counted more lookups than its
    prompts explain, so `totals` and `hit_ratios` leave them out. `recounts` counts how often that
    happened. `lookups_open`: `totals` lack the latest lookups, because the prompts that explain
    them may still follow (engine/metrics/lookups.py). `replicas` are the totals of each replica
    that has a page of its own, by its name. `histograms` are those of an engine's own page,
    continued over its restarts.
    """

    target: str
    snapshot: EngineSnapshot | None
    failure: ScrapeFailure | None
    totals: EngineTotals
    hit_ratios: Mapping[str, float]
    restarts: int
    info: EngineInfo | None
    effective_hit_ratios: Mapping[str, float] = field(default_factory=dict)
    mixed: bool = False
    recounted: bool = False
    recounts: int = 0
    lookups_open: bool = False
    replicas: Mapping[str, EngineTotals] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
