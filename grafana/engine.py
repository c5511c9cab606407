"""Engine and container: the container's states, the engine's load and its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.container.decide.records import LifecycleState
from grafana import expressions as promql
from grafana import kinds, latency, parts
from grafana.names import Uid
from grafana.parts import BLUE, GREEN, GREY, ORANGE, RED, dress, now, query, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import bargauge, stat, statetimeline, table, timeseries
    from grafana_foundation_sdk.models.dashboard import Dashboard

STATE_COLORS: Final = {
    LifecycleState.UNKNOWN: GREY,
    LifecycleState.ABSENT: "purple",
    LifecycleState.PULLING: "light-blue",
    LifecycleState.CREATING: "light-blue",
    LifecycleState.STARTING: BLUE,
    LifecycleState.READY: GREEN,
    LifecycleState.BUSY: "light-yellow",
    LifecycleState.UNHEALTHY: RED,
    LifecycleState.STOPPING: "yellow",
    LifecycleState.BACKING_OFF: ORANGE,
    LifecycleState.HELD: "light-purple",
}
WITHOUT_A_REASON: Final = {
    "none": promql.DOCKER_ANSWERS,
    "unknown": promql.DOCKER_SILENT,
    "no container": promql.NO_CONTAINER,
}
WITHOUT_REPLICAS: Final = "unknown: needs metrics_urls, and traffic"
STATE_WORDS: Final = {
    str(code): (state.replace("_", " "), STATE_COLORS[state])
    for state, code in promql.STATE_CODES.items()
}


def _states() -> list[statetimeline.Panel | stat.Panel | table.Panel]:
    diagnosis = promql.or_word(
        promql.gauge("vllm_container_diagnosis", by="target, reason"),
        "reason",
        WITHOUT_A_REASON,
    )
    answers = {
        "1": ("Docker answers", GREEN),
        "0": ("Docker does not answer", RED),
        "-1": ("no container", GREY),
    }
    drift = {
        "0": ("present settings", GREEN),
        "1": ("other settings", ORANGE),
        "-1": ("no container", GREY),
    }
    since = f"time() - {promql.gauge('vllm_container_state_timestamp_seconds')}"
    without = [*parts.value_words({"-1": ("no container", GREY)}), parts.unknown_word()]
    return [
        dress(
            kinds.states(STATE_WORDS).no_value("no container that the exporter knows"),
            "State of the container",
            "The state of each supervised container over time, one row per container. Unknown: "
            "Docker itself does not answer.",
            "none",
            (24, 6),
            query("A", promql.CONTAINER_STATE),
        ).links([parts.runbook("Crash loop", "crash-loop")]),
        dress(
            kinds.messages("reason", "none", RED),
            "Diagnosis",
            "Why a container is not healthy. Unknown while Docker does not answer. The exporter's "
            "page shows evidence and advice.",
            "none",
            (8, 7),
            rows("A", diagnosis),
        ).links([parts.runbook("Crash loop", "crash-loop")]),
        dress(
            kinds.by_target(kinds.verdict(answers)),
            "Docker",
            "Whether Docker answers. While it does not, the state is unknown.",
            "none",
            (4, 7),
            rows("A", promql.or_no_container(promql.DOCKER)),
        ).links([parts.runbook("Docker unreachable", "docker-unreachable")]),
        dress(
            kinds.by_target(kinds.verdict(drift)),
            "Settings of the container",
            "Whether the container was created with the present settings. Unknown for a container "
            "that the exporter did not create.",
            "none",
            (4, 7),
            rows("A", promql.or_no_container(promql.gauge("vllm_container_config_drift"))),
        ),
        dress(
            kinds.by_target(kinds.figure().mappings(without)),
            "Time in this state",
            "How long the container has been in its present state.",
            parts.SECONDS,
            (4, 7),
            rows("A", promql.or_no_container(since)),
        ),
        dress(
            kinds.by_target(kinds.figure().mappings(without)),
            "Duration of the last start",
            "From the start of the container until it was ready, for the last successful start: "
            "weights, compilation, warm-up.",
            parts.SECONDS,
            (4, 7),
            rows("A", promql.or_no_container(promql.gauge("vllm_container_startup_seconds"))),
        ).links([parts.runbook("Start failing", "start-failing")]),
    ]


def _failures() -> list[bargauge.Panel | timeseries.Panel | table.Panel]:
    restarts = promql.increase(
        "vllm_container_restarts_total", by="target, reason", over="$__range"
    )
    failures = promql.increase(
        "vllm_container_start_failures_total", by="target, reason", over="$__range"
    )
    events = {
        "restarted": "vllm_container_restarts_total",
        "start failed": "vllm_container_start_failures_total",
        "killed for memory": "vllm_container_oom_kills_total",
        "health check failed": "vllm_container_health_failures_total",
        "weights loaded": "vllm_container_model_loads_total",
    }
    made_of = promql.gauge("vllm_container_info", by="target, mode, name, image")
    steps = ((None, GREEN), (1, ORANGE), (3, RED))
    restarts, failures = (
        promql.or_word(f"{causes} > 0", "reason", WITHOUT_A_REASON)
        for causes in (restarts, failures)
    )
    return [
        dress(
            kinds.ranking(steps).decimals(0),
            "Restarts, by cause",
            "Restarts of the container in the dashboard's time range, by their cause; the five "
            "most frequent causes.",
            parts.COUNT,
            (12, 8),
            now("A", f"topk(5, {restarts})", "{{target}}: {{reason}}"),
        ).links([parts.runbook("Restart limit", "restart-limit")]),
        dress(
            kinds.ranking(steps).decimals(0),
            "Failed starts, by cause",
            "Starts in the dashboard's time range that never became ready; the five most frequent "
            "causes.",
            parts.COUNT,
            (12, 8),
            now("A", f"topk(5, {failures})", "{{target}}: {{reason}}"),
        ).links([parts.runbook("Start failing", "start-failing")]),
        dress(
            kinds.bars_of_events(),
            "Events over time",
            "Restarts, failed starts, kills at the memory limit, failed health checks and loads of "
            "the weights, each counted once.",
            parts.COUNT,
            (24, 8),
            query("A", promql.events(events), "{{target}} {{what}}"),
        ).links(
            [
                parts.runbook("Crash loop", "crash-loop"),
                parts.runbook("Out of memory", "out-of-memory"),
            ]
        ),
        dress(
            kinds.grid(),
            "The container",
            "The mode of its target, its name and its image.",
            "none",
            (24, 7),
            rows("A", made_of),
        ).transformations(parts.transformations(parts.labels("target", "mode", "name", "image"))),
    ]


def _load() -> list[timeseries.Panel]:
    return [
        dress(
            kinds.lines().min(0).max(1),
            "KV cache in use",
            "Share of the KV cache that running requests hold. It is 0 when idle, even if the "
            "cache is full of reusable blocks.",
            parts.RATIO,
            (8, 9),
            query("A", promql.gauge("vllm_engine_kv_cache_usage_ratio")),
        ).links([parts.runbook("KV cache saturated", "kv-cache-saturated")]),
        dress(
            kinds.lines().min(0).decimals(0),
            "Requests running and waiting",
            "Requests that the engine computes now, and requests that wait in its queue.",
            parts.COUNT,
            (8, 9),
            query("A", promql.gauge("vllm_engine_requests_running"), "{{target}} running"),
            query("B", promql.gauge("vllm_engine_requests_waiting"), "{{target}} waiting"),
        ),
        dress(
            kinds.lines().min(0),
            "Preemptions",
            "Requests per second that lost their blocks to other requests, because the KV cache "
            "was full. Each must compute its prompt again.",
            "reqps",
            (8, 9),
            query("A", promql.rate("vllm_engine_preemptions_total")),
        ),
    ]


def _cache() -> list[timeseries.Panel]:
    by_window = (
        f"{promql.gauge('vllm_engine_users_effective_hit_ratio', by='target, window')} or "
        f"{promql.gauge('vllm_engine_users_prefix_cache_hit_ratio', by='target, window')}"
    )
    prompts, saved = (
        promql.rate(f"vllm_engine_{what}_total", over="$window")
        for what in ("prompt_tokens", "users_tokens_saved")
    )
    by_source = promql.rate("vllm_engine_cached_tokens_total", by="target, source", over="$window")
    return [
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0)
            .max(1),
            "Hit ratio of users, by window",
            "Hits in all cache tiers / queried tokens of users, without the probe, in the last "
            f"minute, five minutes and hour, with {parts.HIT_RATIO_LINES}. Absent without users.",
            parts.RATIO,
            (24, 8),
            query("A", by_window, "{{target}} {{window}}"),
        ).links([parts.runbook("Hit ratio of users low", "hit-ratio-low")]),
        dress(
            kinds.lines().min(0),
            "Prompt tokens of all traffic, and saved for users",
            "Prompt tokens per second of all traffic, including the probe, and those of users that "
            "came from the cache instead of being computed.",
            parts.TOKENS_PER_SECOND,
            (12, 8),
            query("A", prompts, "{{target}} all prompts"),
            query("B", saved, "{{target}} users, saved"),
        ),
        dress(
            kinds.lines().min(0),
            "Generated tokens",
            "Tokens that the engine generated per second, for all traffic, including the probe.",
            parts.TOKENS_PER_SECOND,
            (12, 8),
            query("A", promql.rate("vllm_engine_generation_tokens_total")),
        ),
        dress(
            kinds.areas(),
            "Where cached tokens came from",
            "Prompt tokens per second of all traffic that the engine did not compute, by vLLM's "
            "own words for their source. device or local_cache_hit: its own prefix cache. The "
            "others came through a KV connector: they were loaded, and count as no saving. p2p: "
            "another vLLM instance computed them for the request, so they are no hits.",
            parts.TOKENS_PER_SECOND,
            (24, 8),
            query("A", by_source, "{{target}} {{source}}"),
        ),
        *_replicas(),
    ]


def _replicas() -> list[timeseries.Panel]:
    hit, queried = (
        promql.rate(f"vllm_engine_replica_{part}", by="target, replica", over="$window")
        for part in ("hit_tokens_total", "queried_tokens_total")
    )
    same = promql.increase("vllm_probe_routed_turns_total", 'replica="same"')
    turns = promql.increase("vllm_probe_routed_turns_total")
    return [
        dress(
            kinds.lines().min(0).max(1).no_value(WITHOUT_REPLICAS),
            "Hit ratio by replica",
            "Hit / queried tokens of all traffic of each replica behind a router, including the "
            "probe. Only for targets with metrics_urls.",
            parts.RATIO,
            (12, 9),
            query("A", promql.ratio(hit, queried), "{{target}} {{replica}}"),
        ),
        dress(
            kinds.lines().min(0).max(1).no_value(WITHOUT_REPLICAS),
            "Turns on the replica of the turn before",
            "Of the probe's later turns whose replica is known, the share that the router sent to "
            "the replica of the turn before. Below 1 the routing loses the cache. Only for targets "
            "with metrics_urls.",
            parts.RATIO,
            (12, 9),
            query("A", promql.ratio(same, turns)),
        ),
    ]


def _engine() -> list[table.Panel | stat.Panel | timeseries.Panel]:
    labels = ("version", "model", "max_model_len", "ranks", "simulated", "prefix_caching")
    more = ("block_size", "match_unit", "num_blocks")
    order = ("target", *labels, *more)
    restarts = promql.increase("vllm_engine_restarts_total", over="$__range")
    rule = ("target", "unit_tokens", "dropped_blocks", "answers_kept", "lookahead_tokens")
    return [
        dress(
            kinds.grid().override_by_name(*kinds.column("model", "none", ("custom.width", 250))),
            "The engine",
            "What the engine reports about itself. A field is empty if it is unknown. A hit counts "
            "in whole match units.",
            "none",
            (24, 7),
            rows("A", promql.gauge("vllm_engine_info", by=", ".join(order))),
        ).transformations(parts.transformations(parts.labels(*order))),
        dress(
            kinds.grid(),
            "The reuse rule",
            "How much of a known prefix the engine serves, as the exporter learned it from hits: "
            "the unit that hits are multiples of, the units that it drops from the end of a hit, "
            "whether it keeps the blocks of answers, and how many tokens at the end may not count. "
            "A field is empty while it is unknown. No row: the rule is unknown.",
            "none",
            (24, 7),
            rows("A", promql.gauge("vllm_engine_reuse_rule", by=", ".join(rule))),
        ).transformations(parts.transformations(parts.labels(*rule))),
        dress(
            kinds.by_target(kinds.figure()),
            "KV cache capacity",
            "How many tokens the KV cache of one rank can hold.",
            parts.TOKENS,
            (6, 6),
            rows("A", promql.each_target(promql.gauge("vllm_engine_kv_cache_capacity_tokens"))),
        ),
        dress(
            kinds.by_target(kinds.figure()),
            "Restarts of the engine's process",
            "In the dashboard's time range, counted by the process's start time, for any reason. "
            "Each restart empties the cache.",
            parts.COUNT,
            (6, 6),
            rows("A", promql.each_target(restarts)),
        ).decimals(0),
        dress(
            kinds.lines().min(0),
            "Scrape duration of the engine's metrics",
            "How long the exporter's last scrape of vLLM's own metrics took. On a busy engine it "
            "often grows first.",
            parts.SECONDS,
            (12, 6),
            query("A", promql.gauge("vllm_engine_scrape_duration_seconds")),
        ),
    ]


def build() -> Dashboard:
    board = parts.frame(
        "vLLM cache: Engine and container",
        Uid.ENGINE,
        "The engine's load, the prefix cache under the users' traffic, and the states of the "
        "supervised container.",
    )
    return parts.in_rows(
        board,
        {
            "Load": [*_load(), *latency.panels()],
            "Prefix cache": _cache(),
            "Engine": _engine(),
            "Container": [*_states(), *_failures()],
        },
    )
