"""/metrics of one simulated process, with the names of its release of vLLM.

Each simulated process builds its own, so a restart starts at 0.
"""

from __future__ import annotations

from collections import Counter as Sums
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from exporter.simulator.releases import ages, families
from exporter.simulator.releases.ages import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.simulator.engine_kinds.sizes import CacheSize
    from exporter.simulator.releases.ages import Age
    from exporter.simulator.releases.families import Family

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
DRAFTS = "vllm:spec_decode_"
_KINDS = {"counter": Counter, "gauge": Gauge}
_CONFIG_RANK = Span((0, 9), v0=False)


class RankMetrics:
    """The series of one engine rank. `totals` are all sums, also of hidden families."""

    def __init__(self, shown: Families, model: str, rank: int) -> None:
        self.totals: Sums[str] = Sums()
        self._block_size = shown.block_size
        labels = {"model_name": model} | ({"engine": str(rank)} if shown.ranked else {})
        self._counters: dict[tuple[str, str], list[tuple[Family, Counter]]] = {}
        self._gauges: dict[tuple[str, str], list[Gauge]] = {}
        self._histograms: dict[str, list[Histogram]] = {}
        for family, metric in shown.metrics:
            for value in family.values:
                more = {} if family.label is None else {family.label: value}
                series = metric.labels(**labels, **more)
                key = (family.quantity, value)
                if isinstance(series, Counter):
                    self._counters.setdefault(key, []).append((family, series))
                elif isinstance(series, Gauge):
                    self._gauges.setdefault(key, []).append(series)
                else:
                    self._histograms.setdefault(family.quantity, []).append(series)

    def count(self, quantity: str, amount: float = 1, value: str = "") -> None:
        """Increase every family of this quantity; some releases have none."""
        self.totals[quantity] += int(amount)
        for family, series in self._counters.get((quantity, value), ()):
            series.inc(amount // self._block_size if family.in_blocks else amount)

    def observe(self, quantity: str, seen: float) -> None:
        for series in self._histograms.get(quantity, ()):
            series.observe(seen)

    def follow(self, quantity: str, read: Callable[[], float], value: str = "") -> None:
        """Read a gauge from the engine at each scrape."""
        for series in self._gauges.get((quantity, value), ()):
            series.set_function(read)


class Families:
    """All `vllm:` families that a release has, on one registry."""

    def __init__(self, registry: CollectorRegistry, age: Age, block_size: int) -> None:
        self.ranked = age in ages.RANK_LABEL
        self.block_size = block_size
        names = ("model_name", "engine") if self.ranked else ("model_name",)
        self.metrics: list[tuple[Family, Counter | Gauge | Histogram]] = []
        for family in families.ALL:
            if age not in family.ages:
                continue
            name, labels = f"vllm:{family.name}", (*names, *filter(None, (family.label,)))
            if family.kind == "histogram":
                self.metrics.append(
                    (
                        family,
                        Histogram(
                            name, family.help, labels, registry=registry, buckets=family.buckets
                        ),
                    )
                )
            else:
                made = _KINDS[family.kind](name, family.help, labels, registry=registry)
                self.metrics.append((family, made))


class ProcessMetrics:
    """The metrics of one simulated process."""

    def __init__(
        self, age: Age, model: str, ranks: int, started_time: float, block_size: int
    ) -> None:
        self._age = age
        self._process = CollectorRegistry()
        start = Gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            registry=self._process,
        )
        start.set(started_time)
        self._vllm = CollectorRegistry()
        shown = Families(self._vllm, age, block_size)
        self.ranks = [RankMetrics(shown, model, rank) for rank in range(ranks)]
        self._config: Gauge | None = None

    def set_cache_config(self, labels: Mapping[str, str]) -> None:
        """Publish `vllm:cache_config_info`, a gauge of 1 with the configuration as labels."""
        if self._config is not None:
            self._vllm.unregister(self._config)
        ranked = self._age in _CONFIG_RANK
        self._config = Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            (*labels, *(("engine",) if ranked else ())),
            registry=self._vllm,
        )
        for rank in range(len(self.ranks) if ranked else 1):
            one = self._config.labels(**labels, **({"engine": str(rank)} if ranked else {}))
            one.set(1)

    def page(self, *, log_stats: bool, start_time: bool = True) -> bytes:
        """The page. With statistics off it has no `vllm:` name, as in vLLM."""
        shown = start_time and self._age in ages.PROCESS_START
        page = generate_latest(self._process) if shown else b""
        return page + generate_latest(self._vllm) if log_stats else page


# Labels of `vllm:cache_config_info` added after 0.8.5.
_NEW_LABELS: dict[tuple[int, ...], tuple[str, ...]] = {
    (0, 10): ("mamba_page_size_padded",),
    (0, 10, 2): (
        *("kv_cache_memory_bytes", "kv_sharing_fast_prefill", "mamba_cache_dtype"),
        "mamba_ssm_cache_dtype",
    ),
    (0, 16): (
        *("kv_offloading_backend", "kv_offloading_size", "mamba_block_size", "mamba_cache_mode"),
    ),
    (0, 22): ("_block_size_resolved", "kv_cache_dtype_skip_layers", "user_specified_block_size"),
    (0, 24): ("kv_cache_max_concurrency", "kv_cache_size_tokens"),
    (0, 26): ("prefix_match_unit",),
    (0, 29): (
        *("kv_cache_layout", "prefix_cache_retention_interval", "replayssm_buffer_len"),
        *("skip_page_size_padded", "use_kda_recoverssm", "use_replayssm"),
    ),
    (0, 31): (
        *("effective_attention_block_size", "enable_mamba_shared_prefix_checkpoint"),
        "swa_bounded_replay",
    ),
    (0, 32): ("cache_hit_alignment_tokens", "hash_block_size"),
}


def cache_config_labels(
    age: Age, size: CacheSize, *, max_model_len: int, caching: bool
) -> dict[str, str]:
    """The labels of `vllm:cache_config_info` on a GPU server."""
    block_size, num_blocks, tokens = size.block_size, size.num_blocks, size.tokens
    labels = {
        "_block_size_resolved": "True",
        "block_size": str(block_size),
        "cache_dtype": "auto",
        "cache_hit_alignment_tokens": "None",
        "effective_attention_block_size": str(block_size),
        "enable_mamba_shared_prefix_checkpoint": "False",
        "enable_prefix_caching": str(caching),
        "gpu_memory_utilization": "0.92",
        "hash_block_size": "None",
        "is_attention_free": "False",
        "kv_cache_dtype_skip_layers": "[]",
        "kv_cache_layout": "None",
        "kv_cache_max_concurrency": str(tokens / max_model_len),
        "kv_cache_memory_bytes": "None",
        "kv_cache_size_tokens": str(tokens),
        "kv_offloading_backend": "native",
        "kv_offloading_size": "None",
        "kv_sharing_fast_prefill": "False",
        "mamba_block_size": str(block_size) if size.linear else "None",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "align" if size.linear else "none",
        "mamba_page_size_padded": "None",
        "mamba_ssm_cache_dtype": "auto",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(num_blocks),
        "num_gpu_blocks_override": str(num_blocks),
        "prefix_cache_retention_interval": "0",
        "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": str(size.match_unit),
        "replayssm_buffer_len": "16",
        "skip_page_size_padded": "None",
        "sliding_window": str(size.sliding_window),
        "swa_bounded_replay": "True",
        "use_kda_recoverssm": "False",
        "use_replayssm": "False",
        "user_specified_block_size": "True",
    }
    for since, names in _NEW_LABELS.items():
        if age.release < since:
            for name in names:
                del labels[name]
    return labels
