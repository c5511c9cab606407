"""Fleet: one row per target; colours show the worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana import expressions as promql
from grafana import kinds, parts
from grafana.engine import STATE_WORDS
from grafana.names import Uid, dashboard_url
from grafana.overview import UP, WEDGED
from grafana.parts import GREEN, GREY, RED, dress, query, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import statetimeline, table, timeseries
    from grafana_foundation_sdk.models.dashboard import Dashboard

# Column, unit, query.
COLUMNS: Final = (
    ("alerts", parts.COUNT, promql.ALERTS_FIRING),
    ("engine", "none", promql.gauge("vllm_engine_up")),
    ("probe", "none", promql.gauge("vllm_probe_up")),
    ("container", "none", promql.or_no_container(promql.CONTAINER_STATE)),
    ("repeated", "none", promql.WEDGED),
    ("session", parts.RATIO, promql.LAST_SESSION),
    ("efficiency", parts.RATIO, promql.LAST_EFFICIENCY),
    ("given up", parts.RATIO, promql.while_up("vllm_probe_up", promql.GIVEN_UP)),
    ("users", parts.RATIO, promql.while_up("vllm_engine_up", promql.USERS_HIT_RATIO)),
    ("warm TTFT", parts.SECONDS, promql.while_up("vllm_probe_up", promql.ttft_mean("warm"))),
    ("cold TTFT", parts.SECONDS, promql.while_up("vllm_probe_up", promql.ttft_mean("cold"))),
    (
        "saved",
        parts.TOKENS,
        promql.increase("vllm_engine_users_tokens_saved_total", over="$__range"),
    ),
    ("KV in use", parts.RATIO, promql.gauge("vllm_engine_kv_cache_usage_ratio")),
    ("waiting", parts.COUNT, promql.gauge("vllm_engine_requests_waiting")),
    ("restarts", parts.COUNT, promql.increase("vllm_engine_restarts_total", over="$__range")),
)
LOOKS: Final = {
    "alerts": kinds.in_steps(((None, GREEN), (1, RED))),
    "engine": kinds.in_words(UP),
    "probe": kinds.in_words(UP),
    "container": (
        *kinds.in_words({**STATE_WORDS, "-1": ("none", GREY)}),
        ("custom.width", 95),
    ),
    "repeated": kinds.in_words(WEDGED),
    "session": kinds.in_steps(parts.HIT_RATIO_STEPS),
    "efficiency": kinds.in_steps(parts.EFFICIENCY_STEPS),
    "users": kinds.in_steps(parts.HIT_RATIO_STEPS),
}

LEADS_TO: Final = {
    "target": ("Session anatomy", Uid.SESSION),
    "alerts": ("Overview", Uid.OVERVIEW),
    "engine": ("Engine and container", Uid.ENGINE),
    "container": ("Engine and container", Uid.ENGINE),
}


def _table() -> table.Panel:
    refs = {chr(ord("A") + index): column for index, column in enumerate(COLUMNS)}
    panel = dress(
        kinds.grid(),
        "Targets",
        "One row per target, the one with most alerts first. Alerts: how many are firing. "
        "Container: none if the exporter supervises none. Repeated: whether a repeated prompt "
        "hits, or the cache is wedged. Session: hit ratio of the probe's last session. "
        "Efficiency: of what the engine's own reuse rule lets it serve. Given up (by that rule), "
        "users (their hit ratio) and times are over the averaging window; saved (tokens, for "
        "users) and restarts over the dashboard's time range. The name of a target leads to its "
        "session, its alerts to Overview, its engine and container to theirs.",
        "none",
        (24, 11),
        *(rows(ref, expr) for ref, (_, _, expr) in refs.items()),
    ).transformations(
        parts.transformations(
            *parts.joined("target", {f"Value #{ref}": c[0] for ref, c in refs.items()}),
            kinds.sorted_by("alerts", desc=True),
        )
    )
    for name, unit, _ in COLUMNS:
        whole = (("decimals", 0),) if unit == parts.COUNT else ()
        looks = (*whole, *LOOKS.get(name, ()), *_leads(name))
        panel = panel.override_by_name(*kinds.column(name, unit, *looks))
    return panel.override_by_name(
        *kinds.column("target", "none", *_leads("target"), ("custom.width", 115))
    )


def _leads(column: str) -> tuple[tuple[str, object], ...]:
    """One link, so that a click follows it: several would be a menu."""
    if column not in LEADS_TO:
        return ()
    title, uid = LEADS_TO[column]
    url = dashboard_url(uid, "${__data.fields.target}")
    return (("links", [{"title": title, "url": url}]),)


def _over_time() -> list[statetimeline.Panel | timeseries.Panel]:
    return [
        dress(
            kinds.states(UP),
            "Sessions finish",
            "Whether the last session of each target finished, one row per target.",
            "none",
            (12, 8),
            query("A", promql.gauge("vllm_probe_up")),
        ).links([parts.runbook("Probe failing", "probe-failing")]),
        dress(
            kinds.states(UP),
            "Engines answer",
            "Whether the metrics of each target's engine could be read, one row per target.",
            "none",
            (12, 8),
            query("A", promql.gauge("vllm_engine_up")),
        ).links([parts.runbook("vLLM down", "vllm-down")]),
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0)
            .max(1),
            "Hit ratio of the probe",
            "The sessions of all targets are alike, so you can compare the lines. Over the "
            f"averaging window, with {parts.HIT_RATIO_LINES}.",
            parts.RATIO,
            (12, 9),
            query("A", promql.PROBE_HIT_RATIO),
        ).links([parts.runbook("Hit ratio low", "probe-hit-ratio-low")]),
        dress(
            kinds.lines().min(0),
            "Median time to first token, warm",
            "Turns with cached tokens, over the averaging window, as exact as the histogram's "
            "buckets allow.",
            parts.SECONDS,
            (12, 9),
            query("A", promql.ttft_quantile(0.5, "warm")),
        ).links([parts.runbook("TTFT regression", "ttft-regression")]),
    ]


def build() -> Dashboard:
    board = parts.frame(
        "vLLM cache: Fleet",
        Uid.FLEET,
        "All targets side by side: which one has a problem, and where to look next.",
    )
    return parts.in_rows(board, {"All targets": [_table()], "Over time": _over_time()})
