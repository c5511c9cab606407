"""What an engine says of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """What `vllm:cache_config_info` says, the same on all ranks, else None.

    `match_unit_tokens` is the token boundary that a prefix hit can land on.
    """

    match_unit_tokens: int | None
    block_size: int | None
    prefix_caching: bool | None
    num_blocks: int | None
    capacity_tokens: int | None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself on /v1/models and /version."""

    model: str
    max_model_len: int | None
    version: str | None
    simulated: bool


PartKey = tuple[tuple[str, str], ...]
"""Labels that tell engines apart, as pairs of name and value."""


@dataclass(frozen=True, slots=True)
class EngineSnapshot:
    """One reading of vLLM's own /metrics, all engine ranks together. Counters are as vLLM counts.

    Counters and the two request gauges are added up over the ranks; `kv_cache_usage_ratio` is the
    ranks' mean (their caches have one size). None: the family is missing or NaN. `asleep`: a rank
    sleeps (/sleep), so requests wait until somebody wakes it. `queried_tokens` and `hit_tokens` are
    multiples of `lookup_step_tokens`: an engine that counts blocks leaves out what fills none.
    `speculative`: a smaller model or a part of this one guesses tokens ahead.

    `queried_tokens` may be far more than all prompts (engine/lookups.py), `prompt_tokens` never is.

    `parts` is empty on an engine's own page. On a page whose series have labels that vLLM does not
    put on them it has what each engine says, and the rest of the snapshot is all of them together.
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
    hit_rate_gauge: float | None  # of a V0 engine, which has no counters of lookups
    cache: CacheConfig | None
    iteration_tokens: float | None = None
    asleep: bool | None = None
    lookup_step_tokens: int = 1
    speculative: bool | None = None
    parts: Mapping[PartKey, EngineSnapshot] = field(default_factory=dict, repr=False)

    @property
    def told_apart_by(self) -> tuple[str, ...]:
        """The labels that are not vLLM's."""
        return tuple(sorted({name for key in self.parts for name, _ in key}))


@dataclass(frozen=True, slots=True)
class ScrapeFailure:
    """vLLM's /metrics could not be read."""

    at: float
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """vLLM's counters carried over its restarts: they never go back. None until first seen."""

    queried_tokens: float | None = None
    hit_tokens: float | None = None
    saved_tokens: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    preemptions: float | None = None


@dataclass(frozen=True, slots=True)
class EngineView:
    """All that is known of one engine after a scrape, good or bad.

    `hit_ratios` maps a window ("1m", "5m", "1h") to hits / queries of all traffic within it; a
    window without traffic is not in it. `restarts` counts the process starts seen. `mixed`: not
    long ago more than one process answered at this URL, in turn. `recounted`: within the last hour
    the engine counted more lookups than its prompts explain; `totals` and `hit_ratios` leave those
    times out. `recounts` says how often that was, and `lookups_open` that `totals` lack what was
    looked up last, because the prompts that explain it may still follow (engine/lookups.py).
    """

    target: str
    snapshot: EngineSnapshot | None
    failure: ScrapeFailure | None
    totals: EngineTotals
    hit_ratios: Mapping[str, float]
    restarts: int
    info: EngineInfo | None
    mixed: bool = False
    recounted: bool = False
    recounts: int = 0
    lookups_open: bool = False
