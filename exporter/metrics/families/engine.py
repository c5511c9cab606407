"""The families of the engine: its own counters and gauges, and what users have of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.metrics.families.cost import ENGINE_COST
from exporter.metrics.readers import (
    Family,
    by,
    engine_info,
    of_users,
    one,
    scrape,
    totals,
)
from exporter.metrics.state.target import live_engine, live_users

if TYPE_CHECKING:
    from exporter.metrics.readers import Value
    from exporter.metrics.state.target import TargetState


def _engine_up(target: TargetState) -> Value:
    return None if target.engine is None else float(target.engine.failure is None)


ENGINE: Final[tuple[Family[TargetState], ...]] = (
    Family(
        "vllm_engine_up",
        "gauge",
        one(_engine_up),
        "1 when the last scrape of the engine's own metrics succeeded. "
        "While it is 0 every other family of the engine but its restarts and failures is absent.",
    ),
    Family(
        "vllm_engine_scrape_failures_total",
        "counter",
        by("reason", lambda t: None if t.engine is None else dict(t.scrape_failures)),
        "Readings of the engine's own metrics that failed, by reason.",
    ),
    Family(
        "vllm_engine_scrape_duration_seconds",
        "gauge",
        scrape(lambda s: s.scrape_seconds),
        "How long the last scrape of the engine's own metrics took.",
    ),
    Family(
        "vllm_engine_restarts_total",
        "counter",
        one(lambda t: None if t.engine is None else t.engine.restarts),
        "Restarts of the engine's process that were seen, by its start time.",
    ),
    Family(
        "vllm_engine_info",
        "gauge",
        engine_info(),
        "1, with what the engine says of itself as labels; a label is empty where it is unknown.",
    ),
    Family(
        "vllm_engine_page_engines",
        "gauge",
        scrape(lambda s: max(1, len(s.parts))),
        "Engines whose series are on the page that is read. More than 1 where a router shows them, "
        "told apart by labels that vLLM does not have: the totals are then of all of them.",
    ),
    Family(
        "vllm_engine_prefix_cache_queried_tokens_total",
        "counter",
        totals(lambda total: total.queried_tokens),
        "Tokens of all traffic that were looked up in the prefix cache, all ranks together, "
        "carried over restarts. Without those that its prompts do not explain: "
        "vllm_engine_lookups_recounted.",
    ),
    Family(
        "vllm_engine_prefix_cache_hit_tokens_total",
        "counter",
        totals(lambda total: total.hit_tokens),
        "Tokens of all traffic that were found in the prefix cache, all ranks together, carried "
        "over restarts. Of the same lookups as vllm_engine_prefix_cache_queried_tokens_total.",
    ),
    Family(
        "vllm_engine_lookups_recounted",
        "gauge",
        one(lambda t: None if (view := live_engine(t)) is None else float(view.recounted)),
        "1 when, within the last hour, the engine counted more lookups in the prefix cache than "
        "its prompts explain: vLLM before 0.27 counts a waiting request again at each step, and "
        "prompts given up before their first token count too. No figure has those lookups or the "
        "hits among them.",
    ),
    Family(
        "vllm_engine_prefix_cache_hit_ratio",
        "gauge",
        by("window", lambda t: None if (view := live_engine(t)) is None else view.hit_ratios),
        "Hit / queried tokens of all traffic, the exporter's own too, in the window. Absent "
        "without traffic in it.",
    ),
    Family(
        "vllm_engine_prefix_cache_reported_hit_ratio",
        "gauge",
        scrape(lambda s: s.hit_rate_gauge),
        "The hit rate that vLLM computes itself: the V0 engine of 0.8.5 to 0.9.1 started with "
        "--show-hidden-metrics-for-version.",
    ),
    Family(
        "vllm_engine_tokens_saved_total",
        "counter",
        totals(lambda total: total.saved_tokens),
        "Prompt tokens of all traffic, the exporter's own too, that were served from cache instead "
        "of computed, all ranks together, carried over restarts. Before vLLM 0.16 "
        "vllm_engine_prefix_cache_hit_tokens_total.",
    ),
    Family(
        "vllm_engine_users_prefix_cache_queried_tokens_total",
        "counter",
        of_users(lambda users: users.queried_tokens),
        "Tokens that others than this exporter looked up in the prefix cache since it began: the "
        "growth of vllm_engine_prefix_cache_queried_tokens_total less what it asked itself. "
        "Without times for which its own share is not known, as around a request that failed.",
    ),
    Family(
        "vllm_engine_users_prefix_cache_hit_tokens_total",
        "counter",
        of_users(lambda users: users.hit_tokens),
        "Those of them that were found, of the same times.",
    ),
    Family(
        "vllm_engine_users_prefix_cache_hit_ratio",
        "gauge",
        by("window", lambda t: None if (users := live_users(t)) is None else users.hit_ratios()),
        "Hit / queried tokens of others than this exporter in the window. Absent without their "
        "traffic in it.",
    ),
    Family(
        "vllm_engine_users_tokens_saved_total",
        "counter",
        of_users(lambda users: users.saved_tokens),
        "Prompt tokens of others than this exporter that were served from cache instead of "
        "computed, since it began.",
    ),
    Family(
        "vllm_engine_kv_cache_usage_ratio",
        "gauge",
        scrape(lambda s: s.kv_cache_usage_ratio),
        "Share of the KV cache that running requests hold, the ranks' mean. "
        "0 when idle, even with a cache full of reusable blocks.",
    ),
    Family(
        "vllm_engine_kv_cache_capacity_tokens",
        "gauge",
        scrape(lambda s: None if s.cache is None else s.cache.capacity_tokens),
        "Tokens that the KV cache of one rank has room for. Before vLLM 0.24 its blocks times "
        "their size, which is too much where layers are of several kinds.",
    ),
    Family(
        "vllm_engine_requests_running",
        "gauge",
        scrape(lambda s: s.requests_running),
        "Requests that the engine computes at the moment, all ranks together.",
    ),
    Family(
        "vllm_engine_requests_waiting",
        "gauge",
        scrape(lambda s: s.requests_waiting),
        "Requests that wait in the engine's queue, all ranks together.",
    ),
    Family(
        "vllm_engine_preemptions_total",
        "counter",
        totals(lambda total: total.preemptions),
        "Requests that lost their blocks to others for lack of room in the KV cache.",
    ),
    Family(
        "vllm_engine_prompt_tokens_total",
        "counter",
        totals(lambda total: total.prompt_tokens),
        "Prompt tokens of all traffic, carried over restarts.",
    ),
    Family(
        "vllm_engine_generation_tokens_total",
        "counter",
        totals(lambda total: total.generation_tokens),
        "Generated tokens of all traffic, carried over restarts.",
    ),
    *ENGINE_COST,
)
