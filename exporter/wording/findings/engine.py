"""What `check` found of the engine itself, before any session: model, version, /metrics. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.model.failure import FailureReason
from exporter.model.reuse import RuleCause
from exporter.model.session import Notice
from exporter.wording import numbers
from exporter.wording.findings.finding import UNREPORTED, CheckTest, failed, passed, unknown
from exporter.wording.notices import ADVICE, CACHING_ON, FAILURE_ADVICE
from exporter.wording.reuse_rules import rule_advice, rule_in_words

if TYPE_CHECKING:
    from exporter.analysis.loss.session_blocks import SessionBlocks
    from exporter.model.engine import CacheConfig, EngineInfo, EngineSnapshot, EngineView
    from exporter.model.kv_events import KvEventsView
    from exporter.model.reuse import ReuseRule
    from exporter.wording.findings.finding import Finding


KV_EVENTS_ON = (
    'Start vLLM with --kv-events-config \'{"enable_kv_cache_events": true, "publisher": "zmq", '
    '"endpoint": "tcp://*:5557"}\', and make this port reachable from the exporter. '
    "GET /kv_event_sources of a new vLLM says where it publishes."
)
"""How to make an engine publish KV events."""


def of_kv_events(view: KvEventsView, blocks: SessionBlocks | None) -> Finding:
    """Whether the engine's KV events arrive. `blocks` are the session's; None if it has no turn."""
    name, events = CheckTest.KV_EVENTS, sum(view.events.values())
    if not events:
        what = "connected, but no event came" if view.connected else "nothing answers"
        return failed(name, f"{view.url}: {what}", KV_EVENTS_ON)
    if blocks is None:
        return unknown(name, f"{view.url}: {events:,} events; no turn of the session was answered")
    if blocks.incomplete:
        return unknown(name, f"{view.url}: {view.missed} batches were published and not received")
    if not blocks.found:
        return unknown(
            name,
            f"{view.url}: {events:,} events, and none of them names the session's salt",
            "vLLM before 0.17 publishes no salts, and an engine whose layers all have a sliding "
            "window does not keep the first block. Or the events are another engine's.",
        )
    return passed(name, f"{view.url}: {events:,} events, {blocks.count:,} blocks of the session")


def of_version(info: EngineInfo, view: EngineView | None = None) -> Finding:
    name = CheckTest.VERSION
    if view and view.snapshot and view.snapshot.parts:
        return unknown(name, "a router or proxy answers, not an engine: see metrics")
    if info.version is None:
        return unknown(name, "/version does not answer; a proxy may hide it")
    simulated = " (SIMULATED)" if info.simulated else ""
    return passed(name, f"vLLM {info.version}{simulated}")


def of_model(info: EngineInfo) -> Finding:
    length = info.max_model_len
    context = "" if length is None else f", with a context of {numbers.tokens(length)}"
    return passed(CheckTest.MODEL, f"{info.model}{context}")


def of_metrics(view: EngineView | None) -> Finding:
    name = CheckTest.METRICS
    if view is None or view.snapshot is None:
        return failed(
            name,
            view.failure.detail if view and view.failure else "not read",
            "Start vLLM without --disable-log-stats, and make /metrics reachable. If it has "
            "another address, set the target's metrics_url.",
        )
    ranks, parts = view.snapshot.ranks, view.snapshot.parts
    text = f"/metrics has the vllm: metrics of {ranks} engine rank{'' if ranks == 1 else 's'}"
    if view.snapshot.own_pages:
        return _of_replicas(name, view.snapshot)
    if parts:
        labels = " and ".join(view.snapshot.engine_labels)
        engines = "1 engine" if len(parts) == 1 else f"{len(parts)} engines"
        text += (
            f", of {engines} by the label {labels}. vLLM does not set it, so the page comes from "
            "a router or a collector"
        )
    return passed(name, text)


def _of_replicas(name: CheckTest, snapshot: EngineSnapshot) -> Finding:
    read = f"the metrics pages of {len(snapshot.parts)} replicas have vllm: metrics"
    if not snapshot.unread:
        return passed(name, read)
    unread = "; ".join(snapshot.unread.values())
    return failed(
        name,
        f"{read}, but {len(snapshot.unread)} could not be read: {unread}",
        "Start these replicas, or take them out of metrics_urls.",
    )


_RESTS = {
    FailureReason.ASLEEP: "/is_sleeping says that it sleeps",
    FailureReason.PAUSED: "/is_paused or an answer says that it is paused",
    FailureReason.SCALING: "an answer says that it is being scaled",
}


def resting(reason: FailureReason, *, by_metrics: bool = False) -> Finding:
    """An engine that sleeps, is paused or is being scaled. This is no fault, and nothing can be
    measured. `by_metrics`: its /metrics shows that it sleeps.
    """
    shown = 'vllm:engine_sleep_state{sleep_state="awake"} is 0: it sleeps'
    return unknown(CheckTest.AWAKE, shown if by_metrics else _RESTS[reason], FAILURE_ADVICE[reason])


_SHOWN_FLAGS = (
    *("enable_prefix_caching", "block_size", "num_gpu_blocks", "kv_cache_size_tokens"),
    *("cache_dtype", "prefix_caching_hash_algo", "gpu_memory_utilization", "sliding_window"),
)


def of_flags(view: EngineView | None) -> Finding:
    cache = _cache(view)
    if cache is None:
        return unknown(CheckTest.FLAGS, "/metrics has no vllm:cache_config_info")
    seen = [f"{name}={cache.labels[name]}" for name in _SHOWN_FLAGS if name in cache.labels]
    return passed(CheckTest.FLAGS, ", ".join(seen) or "vllm:cache_config_info has no known flag")


def of_prefix_caching(view: EngineView | None) -> Finding:
    name = CheckTest.PREFIX_CACHING
    cache = _cache(view)
    if cache is None or cache.prefix_caching is None:
        return unknown(name, "vllm:cache_config_info has no enable_prefix_caching")
    text = f'enable_prefix_caching="{cache.prefix_caching}" in vllm:cache_config_info'
    if cache.prefix_caching:
        return passed(name, text)
    return failed(name, text, CACHING_ON)


def of_footprint(view: EngineView | None, written: int, limit: float) -> Finding:
    """`written` are the tokens of new KV that one session left in the cache, `limit` is the most of
    the cache that the daemon may rewrite per hour, 0 for no limit.
    """
    cache, name = _cache(view), CheckTest.FOOTPRINT
    session = f"a session writes {numbers.count(written)} tokens"
    if cache is None or not cache.capacity_tokens:
        text = f"{session} into the cache, whose size is unknown"
        return unknown(name, text, ADVICE[Notice.CAPACITY_UNKNOWN])
    share = f"{numbers.percent(written / cache.capacity_tokens)} of the cache"
    if not limit:
        return passed(name, f"{session}, {share}; probe.max_cache_turnover_per_hour is 0: no limit")
    most = f"the probe of `run` rewrites at most {numbers.percent(limit)} of the cache per hour"
    return passed(name, f"{most}; {session}, {share}")


def of_match_unit(view: EngineView | None, rule: ReuseRule | None = None) -> Finding:
    """`rule` is the reuse rule that the hits show, None if they do not show it."""
    name = CheckTest.MATCH_UNIT
    cache = _cache(view)
    if cache is None or cache.match_unit_tokens is None:
        return unknown(name, "unknown, and so is the ideal", ADVICE[Notice.MATCH_UNIT_UNKNOWN])
    label = cache.match_unit_tokens
    if rule is None or rule.unit_tokens in (None, label):
        return passed(name, f"by vllm:cache_config_info a hit is a multiple of {label:,} tokens")
    text = (
        f"hits are multiples of {rule.unit_tokens:,} tokens, although vllm:cache_config_info says "
        f"{label:,}"
    )
    larger = (rule.unit_tokens or 1) % label == 0
    return passed(name, f"{text}. {rule_advice(RuleCause.UNIT, rule)}" if larger else text)


def of_reuse_rule(
    rule: ReuseRule | None, view: EngineView | None = None, *, reported: bool = True
) -> Finding:
    """What the engine serves of a known prefix, by the hits and by /metrics. `reported`: the cached
    tokens of at least one turn are known.
    """
    name, cache = CheckTest.REUSE_RULE, _cache(view)
    if cache is not None and cache.prefix_caching is False:
        return unknown(name, "prefix caching is off, so nothing hits")
    if rule is None and not reported:
        return unknown(name, f"{UNREPORTED}: see usage_details")
    if rule is None:
        return unknown(name, "the hits so far do not show it", ADVICE[Notice.REUSE_RULE_UNKNOWN])
    gives_up = {
        RuleCause.SPECULATIVE_DECODING: bool(rule.dropped_blocks or rule.lookahead_tokens),
        RuleCause.ANSWER_NOT_KEPT: rule.answers_kept is False,
    }
    advice = [rule_advice(cause, rule) for cause, holds in gives_up.items() if holds]
    return passed(name, ". ".join([rule_in_words(rule), *advice]))


def _cache(view: EngineView | None) -> CacheConfig | None:
    return view.snapshot.cache if view and view.snapshot else None
