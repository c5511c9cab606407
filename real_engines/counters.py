"""The engine's own counters against those that the exporter publishes for it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# This does not use the exporter's own parser, which is what it checks. The newest name comes first.
ENGINE_NAMES: Mapping[str, Sequence[str]] = {
    "queried_tokens": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "hit_tokens": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
}
EXPORTER_NAMES: Mapping[str, str] = {
    "queried_tokens": "vllm_engine_prefix_cache_queried_tokens_total",
    "hit_tokens": "vllm_engine_prefix_cache_hit_tokens_total",
    "prompt_tokens": "vllm_engine_prompt_tokens_total",
    "generation_tokens": "vllm_engine_generation_tokens_total",
}
_CACHE_CONFIG = "vllm:cache_config_info"


@dataclass(frozen=True, slots=True)
class EnginePage:
    """What one page of vLLM's /metrics says; a counter that is not on it is None."""

    counters: Mapping[str, float | None]
    cache: Mapping[str, str]


def engine_page(text: str) -> EnginePage:
    """The sums over all ranks, in tokens, and the labels of the first rank's cache."""
    sums: dict[str, float] = {}
    helps: dict[str, str] = {}
    cache: Mapping[str, str] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
            helps[sample.name] = family.documentation
            if sample.name == _CACHE_CONFIG:
                cache = cache or sample.labels
    counters: dict[str, float | None] = {}
    for kind, names in ENGINE_NAMES.items():
        name = next((each for each in names if each in sums), None)
        # vLLM 0.8.5 counts blocks, and says so in HELP.
        step = int(cache["block_size"]) if name and "blocks" in helps[name] else 1
        counters[kind] = sums[name] * step if name else None
    return EnginePage(counters, cache)


def exporter_counters(text: str) -> dict[str, float | None]:
    """The same counters on the exporter's page of one target."""
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return {kind: values.get(name) for kind, name in EXPORTER_NAMES.items()}


def metric_labels(text: str, name: str) -> list[dict[str, str]]:
    """The labels of each sample of a family whose value is not 0."""
    return [
        dict(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.value
    ]
