"""What `check` found of the engine itself, before anything is played: its model, its version, and
what its /metrics says. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.failure import FailureReason
from exporter.model.session import Notice
from exporter.wording.findings import failed, passed, unknown
from exporter.wording.notices import ADVICE, FAILURE_ADVICE

if TYPE_CHECKING:
    from exporter.model.engine import CacheConfig, EngineInfo, EngineView
    from exporter.wording.findings import Finding


def of_version(info: EngineInfo, view: EngineView | None = None) -> Finding:
    if view and view.snapshot and view.snapshot.parts:
        return unknown("version", "what answers is no engine of its own: see metrics")
    if info.version is None:
        return unknown("version", "nothing at /version; a proxy may hide it")
    simulated = " (SIMULATED)" if info.simulated else ""
    return passed("version", f"vLLM {info.version}{simulated}")


def of_model(info: EngineInfo) -> Finding:
    context = (
        "" if info.max_model_len is None else f", with a context of {info.max_model_len} tokens"
    )
    return passed("model", f"{info.model}{context}")


def of_metrics(view: EngineView | None) -> Finding:
    if view is None or view.snapshot is None:
        why = view.failure.detail if view and view.failure else "not read"
        return failed(
            "metrics",
            why,
            "Start vLLM without --disable-log-stats, and let /metrics through; where it has "
            "another address, set the target's metrics_url.",
        )
    ranks, parts = view.snapshot.ranks, view.snapshot.parts
    text = f"vllm: names of {ranks} engine rank{'' if ranks == 1 else 's'} at /metrics"
    if parts:
        labels = " and ".join(view.snapshot.told_apart_by)
        engines = "1 engine" if len(parts) == 1 else f"{len(parts)} engines"
        text += (
            f", of {engines} by the label {labels}, which vLLM does not have: a router shows them, "
            "or a page that was collected"
        )
    return passed("metrics", text)


def resting(*, asleep: bool) -> Finding:
    """Of an engine that sleeps by its /metrics, or says elsewhere that it sleeps or is paused.

    It is not ill, and nothing can be measured.
    """
    evidence = (
        'vllm:engine_sleep_state{sleep_state="awake"} is 0: requests wait until it is woken'
        if asleep
        else "/is_sleeping or /is_paused says so: requests wait or are refused until that ends"
    )
    return unknown("awake", evidence, FAILURE_ADVICE[FailureReason.ASLEEP])


_SHOWN_FLAGS = (
    *("enable_prefix_caching", "block_size", "num_gpu_blocks", "kv_cache_size_tokens"),
    *("cache_dtype", "prefix_caching_hash_algo", "gpu_memory_utilization", "sliding_window"),
)


def of_flags(view: EngineView | None) -> Finding:
    cache = _cache(view)
    if cache is None:
        return unknown("flags", "/metrics has no vllm:cache_config_info")
    seen = [f"{name}={cache.labels[name]}" for name in _SHOWN_FLAGS if name in cache.labels]
    return passed("flags", ", ".join(seen) or "vllm:cache_config_info has none that are known")


def of_prefix_caching(view: EngineView | None) -> Finding:
    cache = _cache(view)
    if cache is None or cache.prefix_caching is None:
        return unknown("prefix_caching", "no enable_prefix_caching in vllm:cache_config_info")
    text = f'enable_prefix_caching="{cache.prefix_caching}" in vllm:cache_config_info'
    if cache.prefix_caching:
        return passed("prefix_caching", text)
    return failed("prefix_caching", text, "Start vLLM without --no-enable-prefix-caching.")


def of_match_unit(view: EngineView | None, learned: int | None = None) -> Finding:
    """`learned` is the unit by what hit, None where hits leave it open."""
    cache = _cache(view)
    if cache is None or cache.match_unit_tokens is None:
        return unknown(
            "match_unit", "unknown, and so is the ideal", ADVICE[Notice.MATCH_UNIT_UNKNOWN]
        )
    label = cache.match_unit_tokens
    if learned in (None, label):
        return passed(
            "match_unit", f"by vllm:cache_config_info a hit is a multiple of {label} tokens"
        )
    text = f"what hit is a multiple of {learned} tokens, where vllm:cache_config_info says {label}"
    return passed("match_unit", text)


def _cache(view: EngineView | None) -> CacheConfig | None:
    return view.snapshot.cache if view and view.snapshot else None
