"""The families of the engine's own counters and gauges, for all of its traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.engine.metrics.names import TTFT
from exporter.metrics.readers import (
    Reader,
    by,
    counter,
    engine_histogram,
    gauge,
    histogram,
    one,
    scrape,
    totals,
)
from exporter.metrics.state.target import (
    effective_hit_ratios,
    external_hit_tokens,
    live_engine,
    saved_tokens,
)
from exporter.model.engine import replica_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from exporter.metrics.readers import Family, Reading
    from exporter.metrics.state.target import TargetState
    from exporter.model.engine import EngineTotals


def _info(target: TargetState) -> Iterator[Reading]:
    """An unknown label is empty, which Prometheus reads as no label."""
    view = live_engine(target)
    if view is None:
        return
    snapshot, info = view.snapshot, view.info
    cache = snapshot.cache if snapshot else None
    names = ",".join(snapshot.model_names) if snapshot else None
    known = (
        info.version if info else None,
        info.model if info else names,
        info.max_model_len if info else None,
        snapshot.ranks if snapshot else None,
        info.simulated if info else None,
        cache.prefix_caching if cache else None,
        cache.block_size if cache else None,
        cache.match_unit_tokens if cache else None,
        cache.num_blocks if cache else None,
    )
    yield tuple(map(_label, known)), 1


def _reuse_rule(target: TargetState) -> Iterator[Reading]:
    """A part of the rule that is not known yet is empty."""
    rule = target.reuse_rule
    if rule is None or live_engine(target) is None:
        return
    parts = (rule.unit_tokens, rule.dropped_blocks, rule.answers_kept, rule.lookahead_tokens)
    yield tuple(map(_label, parts)), 1


def _cached_by_source(target: TargetState) -> Mapping[str, float]:
    view = live_engine(target)
    return {} if view is None else view.totals.cached_by_source


def _replicas_up(target: TargetState) -> Mapping[str, bool]:
    view = live_engine(target)
    if view is None or view.snapshot is None or not view.snapshot.own_pages:
        return {}
    found = dict.fromkeys(view.snapshot.parts, True) | dict.fromkeys(view.snapshot.unread, False)
    return {name: up for key, up in found.items() if (name := replica_name(key)) is not None}


def _of_replicas(
    target: TargetState, value: Callable[[EngineTotals], float | None]
) -> Mapping[str, float | None]:
    view = live_engine(target)
    return {} if view is None else {name: value(one) for name, one in view.replicas.items()}


def _label(value: str | float | None) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


_INFO_LABELS = (
    *("version", "model", "max_model_len", "ranks", "simulated"),
    *("prefix_caching", "block_size", "match_unit", "num_blocks"),
)
_RULE_LABELS = ("unit_tokens", "dropped_blocks", "answers_kept", "lookahead_tokens")

ENGINE: Final[tuple[Family[TargetState], ...]] = (
    gauge(
        "vllm_engine_up",
        one(lambda t: None if t.engine is None else t.engine.failure is None),
        "1 when the last scrape of the engine's own metrics succeeded. While it is 0, every other "
        "family of the engine is absent, but not its restarts and scrape failures.",
    ),
    counter(
        "vllm_engine_scrape_failures_total",
        by("reason", lambda t: None if t.engine is None else t.scrape_failures),
        "Scrapes of the engine's own metrics that failed, by reason.",
    ),
    gauge(
        "vllm_engine_scrape_duration_seconds",
        scrape(lambda s: s.scrape_seconds),
        "Duration of the last scrape of the engine's own metrics.",
    ),
    counter(
        "vllm_engine_restarts_total",
        one(lambda t: None if t.engine is None else t.engine.restarts),
        "Restarts of the engine's process, detected by a new start time.",
    ),
    gauge(
        "vllm_engine_info",
        Reader(_INFO_LABELS, _info),
        "1, with what the engine says about itself as labels. A label is empty when it is unknown.",
    ),
    gauge(
        "vllm_engine_reuse_rule",
        Reader(_RULE_LABELS, _reuse_rule),
        "1, with the reuse rule of the running process as labels, as the exporter learned it from "
        "hits: how much of a known prefix the engine serves. A label is empty while that part is "
        "unknown. Absent while the rule is unknown, after a restart of the engine, and while the "
        "target fails.",
    ),
    gauge(
        "vllm_engine_page_engines",
        scrape(lambda s: max(1, len(s.parts))),
        "Engines on the scraped page. More than 1 when a router shows several engines, told apart "
        "by labels that vLLM does not have; the totals are then sums over all of them.",
    ),
    gauge(
        "vllm_engine_replica_up",
        by("replica", _replicas_up),
        "1 when the last scrape read the metrics page of this replica, 0 when it did not. Only "
        "with metrics_urls. Absent when no page could be read: vllm_engine_up is 0 then.",
    ),
    counter(
        "vllm_engine_replica_queried_tokens_total",
        by("replica", lambda t: _of_replicas(t, lambda total: total.queried_tokens)),
        "The part of vllm_engine_prefix_cache_queried_tokens_total that this replica looked up. "
        "Only with metrics_urls.",
    ),
    counter(
        "vllm_engine_replica_hit_tokens_total",
        by("replica", lambda t: _of_replicas(t, lambda total: total.hit_tokens)),
        "The part of vllm_engine_prefix_cache_hit_tokens_total that this replica found. Only with "
        "metrics_urls.",
    ),
    counter(
        "vllm_engine_prefix_cache_queried_tokens_total",
        totals(lambda total: total.queried_tokens),
        "Tokens of all traffic that the engine looked up in its prefix cache, for all ranks, "
        "continued over restarts. Lookups that were counted again do not count: see "
        "vllm_engine_lookups_recounted.",
    ),
    counter(
        "vllm_engine_prefix_cache_hit_tokens_total",
        totals(lambda total: total.hit_tokens),
        "Tokens of all traffic that the engine found in its prefix cache, for all ranks, continued "
        "over restarts. Counts the same lookups as vllm_engine_prefix_cache_queried_tokens_total.",
    ),
    gauge(
        "vllm_engine_lookups_recounted",
        one(lambda t: None if (view := live_engine(t)) is None else view.recounted),
        "1 when, in the last hour, the engine counted more lookups in its prefix cache than its "
        "prompts explain, and may have counted some again: vLLM before 0.27 does so at each step "
        "while a request waits for room in the KV cache. The other families leave these lookups "
        "and their hits out. Lookups of requests that were cancelled before their first token "
        "count, if no request can have waited.",
    ),
    gauge(
        "vllm_engine_prefix_cache_hit_ratio",
        by("window", lambda t: None if (view := live_engine(t)) is None else view.hit_ratios),
        "Hit / queried tokens of all traffic, including the exporter's own, in the window. Absent "
        "without traffic in it.",
    ),
    counter(
        "vllm_engine_external_queried_tokens_total",
        totals(lambda total: total.external_queried_tokens),
        "Tokens of all traffic that the engine did not find in its own prefix cache and looked up "
        "through its KV connector: an external store, an offloaded tier or another engine. For all "
        "ranks, continued over restarts. 0 without a connector.",
    ),
    counter(
        "vllm_engine_external_hit_tokens_total",
        one(external_hit_tokens),
        "Tokens of vllm_engine_external_queried_tokens_total that were found. They were loaded and "
        "not computed, at a cost that is not known, so no family counts them as saved. What "
        "another vLLM instance computed for the same request (source p2p) is no hit and is left "
        "out. Absent when sessions show such transfers, and before vLLM 0.11.2.",
    ),
    counter(
        "vllm_engine_cached_tokens_total",
        by("source", _cached_by_source),
        "Prompt tokens that the engine did not compute, by where they came from, in the words of "
        "vLLM: since 0.32 device, host, disk, p2p and external_unspecified, since 0.16 "
        "local_cache_hit and external_kv_transfer. For all ranks, continued over restarts.",
    ),
    gauge(
        "vllm_engine_effective_hit_ratio",
        by("window", effective_hit_ratios),
        "Hits in all tiers / queried tokens of all traffic in the window: "
        "vllm_engine_prefix_cache_hit_ratio with the hits of "
        "vllm_engine_external_hit_tokens_total. The two are equal where there is no external "
        "store. Absent when external hits are unknown.",
    ),
    gauge(
        "vllm_engine_prefix_cache_reported_hit_ratio",
        scrape(lambda s: s.hit_rate_gauge),
        "The hit rate that vLLM computes itself. Only the V0 engine of vLLM 0.8.5 to 0.9.1 shows "
        "it, with --show-hidden-metrics-for-version.",
    ),
    counter(
        "vllm_engine_tokens_saved_total",
        one(saved_tokens),
        "Prompt tokens that the engine took from its own cache and did not compute, for all "
        "traffic including the exporter's own, for all ranks, continued over restarts. Tokens of "
        "external tiers and transfers do not count: they were moved, at a cost that is not known. "
        "Absent when sessions show that another engine computes the prompts. Before vLLM 0.16 it "
        "is vllm_engine_prefix_cache_hit_tokens_total.",
    ),
    histogram(
        "vllm_engine_ttft_seconds",
        engine_histogram(TTFT),
        "Time to first token as the engine measures it, from the request's arrival, of all traffic "
        "including the exporter's own, for all ranks, continued over restarts: "
        "vllm:time_to_first_token_seconds. Only where the engine's own page is read, so not with "
        "metrics_urls.",
    ),
    gauge(
        "vllm_engine_kv_cache_usage_ratio",
        scrape(lambda s: s.kv_cache_usage_ratio),
        "Share of the KV cache that running requests hold, as the mean of all ranks. It is 0 when "
        "the engine is idle, even when the cache is full of reusable blocks.",
    ),
    gauge(
        "vllm_engine_kv_cache_capacity_tokens",
        scrape(lambda s: None if s.cache is None else s.cache.capacity_tokens),
        "Tokens that fit into the KV cache of one rank. Before vLLM 0.24 it is the number of "
        "blocks times their size, which is too high for models with several kinds of layer.",
    ),
    gauge(
        "vllm_engine_requests_running",
        scrape(lambda s: s.requests_running),
        "Requests that the engine computes now, for all ranks.",
    ),
    gauge(
        "vllm_engine_requests_waiting",
        scrape(lambda s: s.requests_waiting),
        "Requests in the engine's queue, for all ranks.",
    ),
    counter(
        "vllm_engine_preemptions_total",
        totals(lambda total: total.preemptions),
        "Requests that lost their blocks to other requests because the KV cache was full.",
    ),
    counter(
        "vllm_engine_prompt_tokens_total",
        totals(lambda total: total.prompt_tokens),
        "Prompt tokens of all traffic, continued over restarts.",
    ),
    counter(
        "vllm_engine_generation_tokens_total",
        totals(lambda total: total.generation_tokens),
        "Generated tokens of all traffic, continued over restarts.",
    ),
)
