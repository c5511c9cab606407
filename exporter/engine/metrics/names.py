"""vLLM's metric names in every version since 0.8.5, and how the ranks' values become one.

Each family lists its names newest first. If a page has several of them, only the newest is read:
0.9.2 to 0.10.2 show an old and a new name with the same value. A counter that vLLM declares as
`vllm:x` is on the page as `vllm:x_total`.

Read in vLLM's `v1/metrics/loggers.py` (and `engine/metrics.py` of the V0 engine) of 0.8.5, 0.9.2,
0.10.2, 0.11.2, 0.12.0, 0.17.1 and 0.32.0, and on the pages of running engines of 0.8.5 to 0.32.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Ranks(Enum):
    """How the values of all engine ranks become one number."""

    SUM = auto()
    MEAN = auto()  # a ratio of caches that have the same size
    ONLY = auto()  # cannot be combined: known only if there is one series


@dataclass(frozen=True, slots=True)
class Family:
    """One quantity: the names it has had, newest first, and how its series become one number."""

    names: tuple[str, ...]
    ranks: Ranks


# Tokens of prompts looked up in the prefix cache, and tokens found. 0.8.5 to 0.9.1 have only the
# old names, and 0.8.5 counts blocks under them. They were deprecated in 0.9.2, hidden in 0.11 and
# removed in 0.12.0. The V0 engine has neither.
QUERIED_TOKENS = Family(
    ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"), Ranks.SUM
)
HIT_TOKENS = Family(("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"), Ranks.SUM)
# Since 0.16: prompt tokens not computed, from the engine's own cache or from an external one.
CACHED_PROMPT_TOKENS = Family(("vllm:prompt_tokens_cached_total",), Ranks.SUM)
# Since 0.11.2, of a KV connector: a store, an offloaded tier, or another engine. What is looked up
# there is what the engine's own cache did not have. Both stay 0 without a connector.
EXTERNAL_QUERIED_TOKENS = Family(("vllm:external_prefix_cache_queries_total",), Ranks.SUM)
EXTERNAL_HIT_TOKENS = Family(("vllm:external_prefix_cache_hits_total",), Ranks.SUM)
PROMPT_TOKENS = Family(("vllm:prompt_tokens_total",), Ranks.SUM)
GENERATION_TOKENS = Family(("vllm:generation_tokens_total",), Ranks.SUM)
# Tokens of all engine steps. In spite of its name it is the sum of a histogram.
ITERATION_TOKENS = Family(("vllm:iteration_tokens_total_sum",), Ranks.SUM)
PREEMPTIONS = Family(("vllm:num_preemptions_total",), Ranks.SUM)
# In spite of its name a ratio: "1 means 100 percent usage". Renamed in 0.9.2.
KV_CACHE_USAGE = Family(("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), Ranks.MEAN)
REQUESTS_RUNNING = Family(("vllm:num_requests_running",), Ranks.SUM)
REQUESTS_WAITING = Family(("vllm:num_requests_waiting",), Ranks.SUM)
# Only the V0 engine of 0.8.5 to 0.9.1, and only with --show-hidden-metrics-for-version. The value
# -1 means "not supported or disabled".
HIT_RATE = Family(("vllm:gpu_prefix_cache_hit_rate",), Ranks.ONLY)

# From prometheus_client, not from vLLM: absent if several API server processes share a page, and on
# every page of the V0 engine.
PROCESS_START = Family(("process_start_time_seconds",), Ranks.ONLY)

# A gauge that is always 1; the facts are in its labels.
CACHE_CONFIG = "vllm:cache_config_info"

# A gauge for each state and rank, since 0.11.2: 0 for `sleep_state="awake"` means asleep.
SLEEP_STATE = "vllm:engine_sleep_state"

# Present if the engine decodes speculatively, with any method. The value is not used.
SPECULATION = "vllm:spec_decode_num_drafts_total"

# One series for each position of a draft. The values are not used.
DRAFTED = "vllm:spec_decode_num_accepted_tokens_per_pos_total"

# A counter for each `source`, since 0.16: computed, from the engine's own cache, from a connector.
PROMPT_TOKENS_BY_SOURCE = "vllm:prompt_tokens_by_source_total"
COMPUTED, LOCAL_HIT = "local_compute", "local_cache_hit"
# A counter for each `source` of cached tokens, since 0.32: the tiers below a connector, too.
CACHED_BY_SOURCE = "vllm:prompt_tokens_cached_by_source_total"

LOOKUPS = (QUERIED_TOKENS, HIT_TOKENS)

# A value above 1 counts as unknown.
RATIOS = (KV_CACHE_USAGE, HIT_RATE)

# By the field of `EngineSnapshot` that it fills.
FIELDS: Mapping[str, Family] = {
    "queried_tokens": QUERIED_TOKENS,
    "hit_tokens": HIT_TOKENS,
    "cached_prompt_tokens": CACHED_PROMPT_TOKENS,
    "external_queried_tokens": EXTERNAL_QUERIED_TOKENS,
    "external_hit_tokens": EXTERNAL_HIT_TOKENS,
    "prompt_tokens": PROMPT_TOKENS,
    "generation_tokens": GENERATION_TOKENS,
    "iteration_tokens": ITERATION_TOKENS,
    "preemptions": PREEMPTIONS,
    "kv_cache_usage_ratio": KV_CACHE_USAGE,
    "requests_running": REQUESTS_RUNNING,
    "requests_waiting": REQUESTS_WAITING,
    "hit_rate_gauge": HIT_RATE,
    "process_start_time": PROCESS_START,
}
VLLM_FAMILIES = tuple(family for family in FIELDS.values() if family is not PROCESS_START)

_SINGLE = (
    *(CACHE_CONFIG, SLEEP_STATE, SPECULATION, DRAFTED),
    *(PROMPT_TOKENS_BY_SOURCE, CACHED_BY_SOURCE),
)
# By the key in `EngineSnapshot.histograms`. Every release has the times to first token. The others
# are for --kv-cache-metrics, since 0.12.
TTFT = "ttft"
HISTOGRAMS: Mapping[str, str] = {
    TTFT: "vllm:time_to_first_token_seconds",
    "lifetime": "vllm:kv_block_lifetime_seconds",
    "idle_before_evict": "vllm:kv_block_idle_before_evict_seconds",
    "reuse_gap": "vllm:kv_block_reuse_gap_seconds",
}
HISTOGRAM_SAMPLES = frozenset(
    f"{name}_{part}" for name in HISTOGRAMS.values() for part in ("bucket", "sum")
)

WANTED_NAMES: frozenset[str] = frozenset(
    (
        *_SINGLE,
        *(name for family in FIELDS.values() for name in family.names),
        *HISTOGRAM_SAMPLES,
    )
)
