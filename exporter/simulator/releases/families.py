"""vLLM's own metric families: names, help texts, labels and buckets of each release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporter.simulator.releases import ages
from exporter.simulator.releases.ages import Span

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
_LENGTH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
_N = (1, 2, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Family:
    """One family of `vllm:` series. `of` is its quantity; None means its own name.

    `label` is a label in addition to model and engine, `values` are all its values.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    ages: Span = Span()  # noqa: RUF009 - a frozen record
    of: str | None = None
    label: str | None = None
    values: tuple[str, ...] = ("",)
    buckets: tuple[float, ...] = ()
    in_blocks: bool = False

    @property
    def quantity(self) -> str:
        return self.of or self.name


_QUERIES = "GPU prefix cache queries, in terms of number of queried"
_HITS = "GPU prefix cache hits, in terms of number of cached"
_NEW_QUERIES = "DEPRECATED: Use vllm:prefix_cache_queries instead."
_NEW_HITS = "DEPRECATED: Use vllm:prefix_cache_hits instead."
_USAGE = "GPU KV-cache usage. 1 means 100 percent usage."
_EXTERNAL = "from KV connector cross-instance cache sharing, in terms of number of"
_TPOT = "Histogram of time per output token in seconds."


def _old_cache_counters() -> tuple[Family, ...]:
    """Old names of the prefix-cache counters: of blocks in 0.8.5, of tokens up to 0.10.2."""
    eras = (
        (ages.COUNTS_BLOCKS, f"{_QUERIES} blocks.", f"{_HITS} blocks."),
        (Span((0, 9), (0, 9, 2), v0=False), f"{_QUERIES} tokens.", f"{_HITS} tokens."),
        (
            Span((0, 9, 2), (0, 10), v0=False),
            f"{_QUERIES} tokens.{_NEW_QUERIES}",
            f"{_HITS} tokens.{_NEW_HITS}",
        ),
        (
            Span((0, 10), (0, 11), v0=False),
            f"{_QUERIES}tokens. {_NEW_QUERIES}",
            f"{_HITS} tokens. {_NEW_HITS}",
        ),
    )
    return tuple(
        Family("counter", f"gpu_{of}", text, span, of, in_blocks=span is ages.COUNTS_BLOCKS)
        for span, queries, hits in eras
        for of, text in (("prefix_cache_queries", queries), ("prefix_cache_hits", hits))
    )


_GAUGES = (
    Family(
        "gauge", "num_requests_running", "Number of requests in model execution batches.", ages.V1
    ),
    Family(
        "gauge", "num_requests_running", "Number of requests currently running on GPU.", ages.V0
    ),
    Family("gauge", "num_requests_waiting", "Number of requests waiting to be processed."),
    Family(
        "gauge",
        "num_requests_waiting_by_reason",
        "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling"
        " capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer,"
        " blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
        Span((0, 21)),
        label="reason",
        values=("capacity", "deferred"),
    ),
    Family(
        "gauge",
        "engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake;"
        " weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
        Span((0, 11, 2)),
        label="sleep_state",
        values=("awake", "weights_offloaded", "discard_all"),
    ),
    Family(
        "gauge",
        "kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        Span((0, 9, 2), v0=False),
    ),
    Family(
        "gauge",
        "gpu_cache_usage_perc",
        f"{_USAGE}DEPRECATED: Use vllm:kv_cache_usage_perc instead.",
        Span((0, 9, 2), (0, 11), v0=False),
        "kv_cache_usage_perc",
    ),
    *(
        Family("gauge", "gpu_cache_usage_perc", _USAGE, span, "kv_cache_usage_perc")
        for span in (Span(until=(0, 9, 2), v0=False), ages.V0)
    ),
)
_COUNTERS = (
    *_old_cache_counters(),
    Family(
        "counter",
        "prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        Span((0, 9, 2), v0=False),
    ),
    Family(
        "counter",
        "prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        Span((0, 9, 2), v0=False),
    ),
    Family(
        "counter",
        "external_prefix_cache_queries",
        f"External prefix cache queries {_EXTERNAL} queried tokens.",
        Span((0, 11, 2)),
    ),
    Family(
        "counter",
        "external_prefix_cache_hits",
        f"External prefix cache hits {_EXTERNAL} cached tokens.",
        Span((0, 11, 2)),
    ),
    Family("counter", "num_preemptions", "Cumulative number of preemption from the engine."),
    Family("counter", "prompt_tokens", "Number of prefill tokens processed."),
    Family(
        "counter",
        "prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        Span((0, 16)),
        label="source",
        values=("local_compute", "local_cache_hit", "external_kv_transfer"),
    ),
    Family(
        "counter",
        "prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        Span((0, 16)),
    ),
    Family(
        "counter",
        "prompt_tokens_cached_by_source",
        "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host"
        " (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or"
        " external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits +"
        " vllm:external_prefix_cache_hits.",
        Span((0, 32)),
        label="source",
        values=("device", "host", "p2p", "disk", "external_unspecified"),
    ),
    Family("counter", "generation_tokens", "Number of generation tokens processed."),
    Family(
        "counter",
        "request_success",
        "Count of successfully processed requests.",
        label="finished_reason",
        values=("stop", "length", "abort", "error", "repetition"),
    ),
    Family("counter", "spec_decode_num_drafts", "Number of spec decoding drafts.", ages.V1),
    Family("counter", "spec_decode_num_draft_tokens", "Number of draft tokens.", ages.V1),
    Family("counter", "spec_decode_num_accepted_tokens", "Number of accepted tokens.", ages.V1),
    Family(
        "counter",
        "spec_decode_num_accepted_tokens_per_pos",
        "Accepted tokens per draft position.",
        ages.V1,
        label="position",
        values=tuple(str(position) for position in range(16)),
    ),
)


def _histogram(
    name: str,
    text: str,
    buckets: tuple[float, ...],
    span: Span = ages.ALWAYS,
    of: str | None = None,
) -> Family:
    return Family("histogram", name, text, span, of, buckets=buckets)


_LATER_TPOT = f"{_TPOT}DEPRECATED: Use vllm:inter_token_latency_seconds instead."
_HISTOGRAMS = (
    _histogram(
        "time_to_first_token_seconds", "Histogram of time to first token in seconds.", _TTFT
    ),
    _histogram(
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        _INTER_TOKEN,
        Span((0, 10, 2)),
    ),
    *(
        _histogram(
            "time_per_output_token_seconds", text, _INTER_TOKEN, span, "inter_token_latency_seconds"
        )
        for text, span in (
            (_TPOT, Span(until=(0, 10, 2))),
            (_LATER_TPOT, Span((0, 10, 2), (0, 11))),
        )
    ),
    _histogram(
        "request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        _INTER_TOKEN,
        Span((0, 11, 2)),
    ),
    *(
        _histogram(
            "e2e_request_latency_seconds",
            f"Histogram of {word} latency in seconds.",
            _REQUEST,
            span,
        )
        for word, span in (("e2e request", ages.V1), ("end to end request", ages.V0))
    ),
    *(
        _histogram(
            f"request_{name}_time_seconds",
            f"Histogram of time spent in {name.upper() if name != 'queue' else 'WAITING'} phase"
            " for request.",
            _REQUEST,
        )
        for name in ("queue", "prefill", "decode")
    ),
    _histogram(
        "request_inference_time_seconds",
        "Histogram of time spent in RUNNING phase for request.",
        _REQUEST,
    ),
    _histogram("request_prompt_tokens", "Number of prefill tokens processed.", _LENGTH),
    _histogram("request_generation_tokens", "Number of generation tokens processed.", _LENGTH),
    _histogram(
        "request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        _LENGTH,
    ),
    _histogram(
        "request_params_max_tokens", "Histogram of the max_tokens request parameter.", _LENGTH
    ),
    _histogram("request_params_n", "Histogram of the n request parameter.", _N),
    _histogram(
        "request_num_preemptions",
        "Histogram of the number of times a request was preempted.",
        _PREEMPTIONS,
        Span((0, 31)),
    ),
    _histogram(
        "request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        _LENGTH,
        Span((0, 13)),
    ),
    _histogram(
        "iteration_tokens_total", "Histogram of number of tokens per engine_step.", _STEP_TOKENS
    ),
)
ALL: tuple[Family, ...] = (*_GAUGES, *_COUNTERS, *_HISTOGRAMS)
