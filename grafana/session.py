"""Session anatomy: one target, turn by turn, now and over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grafana_foundation_sdk.builders import table

from grafana import expressions as promql
from grafana import kinds, parts
from grafana.names import Uid
from grafana.parts import BLUE, GREEN, ORANGE, RED, dress, query, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import (
        barchart,
        heatmap,
        prometheus,
        statetimeline,
        timeseries,
        trend,
    )
    from grafana_foundation_sdk.models.dashboard import Dashboard


def _of_turn(family: str) -> str:
    return promql.gauge(f"vllm_probe_turn_{family}", promql.SCENARIO, by="turn")


IDEAL_TOKENS: Final = f"{_of_turn('ideal_hit_ratio')} * {_of_turn('prompt_tokens')}"

# What the last session is told by: column, unit, query.
COLUMNS: Final = (
    ("prompt", parts.TOKENS, _of_turn("prompt_tokens")),
    ("ideal", parts.TOKENS, IDEAL_TOKENS),
    ("cached", parts.TOKENS, _of_turn("tokens_saved")),
    ("hit ratio", parts.RATIO, _of_turn("hit_ratio")),
    ("ideal hit ratio", parts.RATIO, _of_turn("ideal_hit_ratio")),
    ("efficiency", parts.RATIO, _of_turn("efficiency_ratio")),
    ("TTFT", parts.SECONDS, _of_turn("ttft_seconds")),
    ("latency", parts.SECONDS, _of_turn("latency_seconds")),
    ("completion", parts.TOKENS, _of_turn("completion_tokens")),
)


def _columns(*wanted: str) -> tuple[list[prometheus.Dataquery], tuple[parts.Transformation, ...]]:
    """Queries for some columns, and what makes one table with a row per turn of them."""
    chosen = [column for column in COLUMNS if column[0] in wanted]
    refs = {chr(ord("A") + index): column for index, column in enumerate(chosen)}
    queries = [rows(ref, expr) for ref, (_, _, expr) in refs.items()]
    return queries, parts.joined("turn", {f"Value #{ref}": c[0] for ref, c in refs.items()})


def _last_session() -> list[barchart.Panel | trend.Panel]:
    tokens, in_tokens = _columns("prompt", "ideal", "cached")
    ratios, in_ratios = _columns("hit ratio", "ideal hit ratio")
    times, in_times = _columns("TTFT", "latency")
    return [
        dress(
            kinds.bars_by("turn", *in_tokens),
            "Tokens by turn: prompt, ideal, cached",
            "For each turn of the scenario's last session: the prompt's tokens, the most of them "
            "that exact-prefix caching could have served, and those that it did serve.",
            parts.TOKENS,
            (8, 9),
            *tokens,
        ),
        dress(
            kinds.curve_by_turn(*in_ratios)
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .color_scheme(parts.fixed(BLUE))
            .override_by_name(*kinds.column("ideal hit ratio", parts.RATIO, kinds.color(GREEN)))
            .min(0)
            .max(1),
            "Hit ratio by turn",
            "Cached / prompt tokens of each turn of the last session beside the ideal, with lines "
            "at 0.4 and 0.5. The first turn is 0 by design: its salt was never used before.",
            parts.RATIO,
            (8, 9),
            *ratios,
        ).links([parts.runbook("Hit ratio low", "probe-hit-ratio-low")]),
        dress(
            kinds.bars_by("turn", *in_times),
            "Times by turn: first token, whole answer",
            "Time to first token and to the end of the answer of each turn of the last session, as "
            "the client saw them.",
            parts.SECONDS,
            (8, 9),
            *times,
        ),
    ]


def _all_values() -> table.Panel:
    queries, in_table = _columns(*(name for name, _, _ in COLUMNS))
    panel = dress(
        table.Panel(),
        "The last session in figures",
        "Every value of the scenario's last session. A value that is not known is absent; when "
        "that session failed, all of them are.",
        "none",
        (24, 8),
        *queries,
    ).transformations(
        parts.transformations(*in_table, *kinds.in_order_of("turn")),
    )
    for name, unit, _ in COLUMNS:
        panel = panel.override_by_name(*kinds.column(name, unit))
    return panel


def _ratios_over_time() -> list[timeseries.Panel]:
    ideal = promql.increase("vllm_probe_ideal_cached_tokens_total")
    lost = (
        promql.increase("vllm_probe_lost_tokens_total", by="target, cause")
        + f" / on (target) group_left () ({ideal} > 0)"
    )
    return [
        dress(
            kinds.lines()
            .thresholds(parts.thresholds(parts.HIT_RATIO_STEPS))
            .thresholds_style(kinds.lines_at_thresholds())
            .min(0)
            .max(1),
            "Hit ratio of each turn over time",
            "The same turn from session to session, with lines at 0.4 and 0.5. Gaps: a session "
            "failed, or the server did not say.",
            parts.RATIO,
            (12, 9),
            query("A", _of_turn("hit_ratio"), "turn {{turn}}"),
        ),
        dress(
            kinds.bars_over_time(),
            "Share of the ideal that was lost, by cause",
            "Tokens that the cache could have served and did not, of all that it could have "
            "served, over the averaging window.",
            parts.RATIO,
            (12, 9),
            query("A", lost, "{{cause}}"),
        ),
    ]


def _first_tokens() -> list[heatmap.Panel | timeseries.Panel]:
    bucket = "vllm_probe_ttft_seconds_bucket"
    heats = [
        dress(
            kinds.heat(),
            f"Time to first token, {cache} turns",
            f"How many turns {meaning} took how long to their first token, over time.",
            parts.SECONDS,
            (12, 9),
            parts.buckets(
                promql.increase(bucket, f'cache="{cache}"', by="le", over="$__rate_interval")
            ),
        )
        for cache, meaning in (("warm", "with cached tokens"), ("cold", "without a cached token"))
    ]
    curves = dress(
        kinds.lines().min(0),
        "Time to first token, warm against cold",
        "Median and 90th percentile over the averaging window, as near as the histogram's buckets "
        "allow. Warm above cold says that the cache hits and does not help.",
        parts.SECONDS,
        (12, 9),
        *(
            query(ref, promql.ttft_quantile(quantile, cache), f"{cache} {name}")
            for ref, cache, quantile, name in (
                ("A", "warm", 0.5, "median"),
                ("B", "warm", 0.9, "p90"),
                ("C", "cold", 0.5, "median"),
                ("D", "cold", 0.9, "p90"),
            )
        ),
    )
    by_turn = dress(
        kinds.lines().min(0),
        "Time to first token of each turn",
        "The same turn from session to session, as the client saw it. A later turn has a longer "
        "prompt: with a working cache its time hardly grows.",
        parts.SECONDS,
        (12, 9),
        query("A", _of_turn("ttft_seconds"), "turn {{turn}}"),
    )
    return [*heats, curves, by_turn]


def _controls() -> list[barchart.Panel | timeseries.Panel]:
    turns = f"{promql.TARGET}, {promql.SCENARIO}"
    averaged = {
        name: f"avg by (turn) (avg_over_time({family}{{{turns}}}[$window]))"
        for name, family in (
            ("cold control", "vllm_probe_turn_cold_ttft_seconds"),
            ("as it was", "vllm_probe_turn_ttft_seconds"),
        )
    }
    refs = dict(zip("AB", averaged, strict=True))
    side_by_side = parts.joined("turn", {f"Value #{ref}": name for ref, name in refs.items()})
    outcomes = promql.increase("vllm_probe_controls_total", by="outcome")
    return [
        dress(
            kinds.bars_by("turn", *side_by_side),
            "Time to first token against a cold control, by turn",
            "The same messages under a salt never used, so without a cached token, beside the turn "
            "as it was, over the averaging window. Only turns that were drawn for a control.",
            parts.SECONDS,
            (14, 9),
            *(rows(ref, averaged[name]) for ref, name in refs.items()),
        ),
        dress(
            kinds.bars_over_time(),
            "Cold controls, by outcome",
            "Controls that were sent over the averaging window. Only those that proved cold are "
            "compared with.",
            parts.COUNT,
            (10, 9),
            query("A", outcomes, "{{outcome}}"),
        ),
    ]


def _guest() -> list[barchart.Panel | statetimeline.Panel | timeseries.Panel]:
    consumed = promql.rate("vllm_probe_consumed_tokens_total", over="$window")
    budget = promql.gauge("vllm_probe_budget_tokens_per_hour")
    kept = promql.gauge("vllm_probe_retention_ratio", by="gap_seconds")
    held = {"0": ("free", GREEN), "1": ("held back", ORANGE)}
    return [
        dress(
            kinds.bars_by(
                "gap_seconds",
                (
                    "organize",
                    {
                        "excludeByName": {"Time": True},
                        "indexByName": {},
                        "renameByName": {"Value": "still cached"},
                    },
                ),
            )
            .min(0)
            .max(1),
            "Still cached after an idle gap of seconds",
            "Share of a prefix that was still cached after nobody used it for so many seconds, "
            "when last measured: how long an agent's tool may take.",
            parts.RATIO,
            (8, 7),
            rows("A", kept),
        ).links([parts.runbook("Retention short", "cache-retention-short")]),
        dress(
            kinds.states(held),
            "What holds the probe back",
            "Sessions wait while requests queue in the engine, while its KV cache is full of "
            "running requests, and while the token budget is spent.",
            "none",
            (8, 7),
            query("A", promql.gauge("vllm_probe_paused", by="target, reason"), "{{reason}}"),
        ),
        dress(
            kinds.lines().min(0).color_scheme(parts.fixed(ORANGE)),
            "What the probe itself asks of the engine",
            "Prompt and completion tokens of all the probe's requests per second, over the "
            "averaging window, and the budget: the price of measuring.",
            parts.TOKENS_PER_SECOND,
            (8, 7),
            query("A", consumed, "probe"),
            query("B", f"{budget} / 3600", "budget"),
        ).override_by_name(
            *kinds.column("budget", parts.TOKENS_PER_SECOND, kinds.color(parts.GREY))
        ),
    ]


def _rest() -> list[statetimeline.Panel | timeseries.Panel]:
    stable = {"1": ("stable", GREEN), "0": ("history rewritten", RED)}
    between = promql.rate("vllm_probe_inter_token_seconds_bucket", by="le", over="$window")
    return [
        dress(
            kinds.states(stable),
            "Prompt prefix",
            "Whether each prompt began with the turn before it. Where the chat template rewrites "
            "history, the ideal itself falls.",
            "none",
            (12, 7),
            query(
                "A",
                promql.gauge("vllm_probe_prefix_stable", by="target, scenario"),
                "{{scenario}}",
            ),
        ).links([parts.runbook("Prefix unstable", "prefix-unstable")]),
        dress(
            kinds.lines().min(0),
            "Time between tokens",
            "Median and 99th percentile of the time from one chunk of text to the next, over the "
            "averaging window. Decoding, which no prefix cache makes faster.",
            parts.SECONDS,
            (12, 7),
            query("A", f"histogram_quantile(0.5, {between})", "median"),
            query("B", f"histogram_quantile(0.99, {between})", "p99"),
        ),
    ]


def build() -> Dashboard:
    board = parts.frame(
        "vLLM cache: Session anatomy",
        Uid.SESSION,
        "One target's synthetic agent sessions, turn by turn: what was cached, what could have "
        "been, and what it did to the time to first token.",
        one_target=True,
    )
    return parts.in_rows(
        board,
        {
            "The last session": [*_last_session(), _all_values()],
            "Hit ratio over time": _ratios_over_time(),
            "Time to first token": [*_first_tokens(), *_controls()],
            "Prefix and decoding": _rest(),
            "The probe as a guest": _guest(),
        },
    )
