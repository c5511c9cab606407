"""vLLM's own metric families, with its names, labels and buckets (version 0.32.0).

Rebuilt for each simulated process: a restart begins again at 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"

_LABELS = ("model_name", "engine")
_TTFT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
    80, 160, 640, 2560,
)  # fmt: skip
_INTER_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_REQUEST = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
_N = (1, 2, 5, 10, 20)

_COUNTERS: dict[str, str] = {
    "prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "external_prefix_cache_queries": "External prefix cache queries, in queried tokens.",
    "external_prefix_cache_hits": "External prefix cache hits, in cached tokens.",
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
    "generation_tokens": "Number of generation tokens processed.",
}
_HISTOGRAMS: dict[str, tuple[str, tuple[float, ...] | None]] = {
    "time_to_first_token_seconds": ("Time to first token in seconds.", _TTFT),
    "inter_token_latency_seconds": ("Inter-token latency in seconds.", _INTER_TOKEN),
    "request_time_per_output_token_seconds": ("Time per output token, a request.", _INTER_TOKEN),
    "e2e_request_latency_seconds": ("End to end request latency in seconds.", _REQUEST),
    "request_queue_time_seconds": ("Time spent in WAITING phase.", _REQUEST),
    "request_inference_time_seconds": ("Time spent in RUNNING phase.", _REQUEST),
    "request_prefill_time_seconds": ("Time spent in PREFILL phase.", _REQUEST),
    "request_decode_time_seconds": ("Time spent in DECODE phase.", _REQUEST),
    "request_prompt_tokens": ("Number of prefill tokens processed.", None),
    "request_generation_tokens": ("Number of generation tokens processed.", None),
    "request_max_num_generation_tokens": ("Most generation tokens asked for.", None),
    "request_params_max_tokens": ("The max_tokens request parameter.", None),
    "request_params_n": ("The n request parameter.", _N),
    "request_num_preemptions": ("Number of times a request was preempted.", _PREEMPTIONS),
    "request_prefill_kv_computed_tokens": ("New KV tokens computed during prefill.", None),
    "iteration_tokens_total": ("Number of tokens per engine_step.", _STEP_TOKENS),
}
_FINISHED = ("stop", "length", "abort", "error", "repetition")
_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")
_TIERS = ("device", "host", "p2p", "disk", "external_unspecified")
_WAITING_REASONS = ("capacity", "deferred")


class RankMetrics:
    """The series of one engine rank."""

    def __init__(self, families: Families, model: str, rank: int) -> None:
        labels = {"model_name": model, "engine": str(rank)}
        self.counters = {name: c.labels(**labels) for name, c in families.counters.items()}
        self.histograms = {name: h.labels(**labels) for name, h in families.histograms.items()}
        self.gauges = {name: g.labels(**labels) for name, g in families.gauges.items()}
        self.finished = {
            reason: families.finished.labels(**labels, finished_reason=reason)
            for reason in _FINISHED
        }
        self.by_source = {
            source: families.by_source.labels(**labels, source=source) for source in _SOURCES
        }
        self.by_tier = {tier: families.by_tier.labels(**labels, source=tier) for tier in _TIERS}
        self.waiting_for = {
            reason: families.waiting_for.labels(**labels, reason=reason)
            for reason in _WAITING_REASONS
        }

    def count(self, name: str, amount: float = 1) -> None:
        self.counters[name].inc(amount)

    def observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)

    def follow(
        self,
        running: Callable[[], float],
        waiting: Callable[[], float],
        usage: Callable[[], float],
    ) -> None:
        """Read the gauges from the engine whenever the page is read."""
        self.gauges["num_requests_running"].set_function(running)
        self.gauges["num_requests_waiting"].set_function(waiting)
        self.gauges["kv_cache_usage_perc"].set_function(usage)
        self.waiting_for["capacity"].set_function(waiting)


class Families:
    """All `vllm:` families of one process, on one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vllm:{name}", text, (*_LABELS, *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"vllm:{name}", text, (*_LABELS, *labels), registry=registry)

        self.gauges = {
            "num_requests_running": gauge(
                "num_requests_running", "Number of requests in model execution batches."
            ),
            "num_requests_waiting": gauge(
                "num_requests_waiting", "Number of requests waiting to be processed."
            ),
            "kv_cache_usage_perc": gauge(
                "kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage."
            ),
        }
        self.waiting_for = gauge(
            "num_requests_waiting_by_reason", "Number of waiting requests by reason.", "reason"
        )
        self.counters = {name: counter(name, text) for name, text in _COUNTERS.items()}
        self.by_source = counter(
            "prompt_tokens_by_source", "Number of prompt tokens by source.", "source"
        )
        self.by_tier = counter(
            "prompt_tokens_cached_by_source", "Prefix-cache hit tokens by cache tier.", "source"
        )
        self.finished = counter(
            "request_success", "Count of successfully processed requests.", "finished_reason"
        )
        self.histograms = {
            name: Histogram(f"vllm:{name}", text, _LABELS, registry=registry, buckets=bounds)
            for name, (text, given) in _HISTOGRAMS.items()
            for bounds in (_length_buckets() if given is None else given,)
        }


def _length_buckets() -> tuple[float, ...]:
    return (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class ProcessMetrics:
    """What one simulated process shows on /metrics."""

    def __init__(self, model: str, ranks: int, started_time: float) -> None:
        self._process = CollectorRegistry()
        start = Gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            registry=self._process,
        )
        start.set(started_time)
        self._vllm = CollectorRegistry()
        families = Families(self._vllm)
        self.ranks = [RankMetrics(families, model, rank) for rank in range(ranks)]
        self._config: Gauge | None = None

    def set_cache_config(self, labels: Mapping[str, str]) -> None:
        """Publish `vllm:cache_config_info`, a gauge of 1 whose labels are the facts."""
        if self._config is not None:
            self._vllm.unregister(self._config)
        self._config = Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            (*labels, "engine"),
            registry=self._vllm,
        )
        for rank in range(len(self.ranks)):
            self._config.labels(**labels, engine=str(rank)).set(1)

    def page(self, *, log_stats: bool) -> bytes:
        """The page; without any `vllm:` name where statistics are off, as in vLLM."""
        page = generate_latest(self._process)
        return page + generate_latest(self._vllm) if log_stats else page


def cache_config_labels(
    *, block_size: int, num_blocks: int, max_model_len: int, prefix_caching: bool
) -> dict[str, str]:
    """The labels of `vllm:cache_config_info` on a GPU server with plain attention."""
    tokens = block_size * num_blocks
    return {
        "_block_size_resolved": "True",
        "block_size": str(block_size),
        "cache_dtype": "auto",
        "cache_hit_alignment_tokens": "None",
        "effective_attention_block_size": str(block_size),
        "enable_mamba_shared_prefix_checkpoint": "False",
        "enable_prefix_caching": str(prefix_caching),
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
        "mamba_block_size": "None",
        "mamba_cache_dtype": "auto",
        "mamba_cache_mode": "none",
        "mamba_page_size_padded": "None",
        "mamba_ssm_cache_dtype": "auto",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(num_blocks),
        "num_gpu_blocks_override": str(num_blocks),
        "prefix_cache_retention_interval": "0",
        "prefix_caching_hash_algo": "sha256",
        "prefix_match_unit": "None",
        "sliding_window": "None",
        "user_specified_block_size": "True",
    }
